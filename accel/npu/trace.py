"""Which instructions a program executes, in order: those in the program memory, and those that its own DMA puts there.

The program memory is a ring. A program longer than the memory fetches its pages while it runs (docs/spec/npu.md, N114); no
instruction depends on a value, so following it once tells everything that it will ever do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from accel.npu import isa
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram
from edgewright.errors import PackageError

WORDS = isa.WORD_BITS // 32


def executed(program: NpuProgram, profile: NpuProfile) -> list[isa.Instruction]:
    """Return the instructions up to the first HALT; raise `PackageError` when a word is none, or no HALT comes."""
    instructions = list(_follow(program, profile))
    if not instructions or not isinstance(instructions[-1], isa.Halt):
        raise PackageError("an NPU program must end with HALT")
    return instructions


def _follow(program: NpuProgram, profile: NpuProfile) -> Iterator[isa.Instruction]:
    depth = profile.instructions
    memory = np.zeros((max(depth, len(program.instructions)), WORDS), np.uint32)
    memory[: len(program.instructions)] = program.instructions
    known: list[isa.Instruction | None] = [*isa.decode(program.instructions)]
    known += [None] * (len(memory) - len(known))
    longest = len(program.instructions) + len(program.external) // WORDS
    for count in range(longest):
        at = count % len(memory)
        instruction = known[at] or isa.decode(memory[at : at + 1])[0]
        yield instruction
        if isinstance(instruction, isa.Halt):
            return
        if isinstance(instruction, isa.Dma) and instruction.region == isa.Region.PROGRAM:
            first, words = instruction.local // WORDS, _fetched(program, instruction)
            if first + len(words) > depth:
                raise PackageError(
                    f"instruction {count} (DMA): the program memory ends at {depth}, but {first + len(words)} is used"
                )
            memory[first : first + len(words)] = words
            known[first : first + len(words)] = isa.decode(words)


def _fetched(program: NpuProgram, transfer: isa.Dma) -> isa.Words:
    words = program.external[transfer.external : transfer.external + transfer.words]
    if transfer.runs != 1 or len(words) < transfer.words or transfer.words % WORDS or transfer.local % WORDS:
        raise PackageError("instructions must be fetched whole, in one run, from the program's constants: the program is damaged")
    return words.reshape(-1, WORDS)
