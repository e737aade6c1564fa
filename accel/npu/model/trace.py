"""List the executed instructions of a program in order, with REPEAT unrolled and fetched pages resolved.

The program memory is a ring buffer. A program longer than the memory fetches its pages while it runs (docs/spec/npu.md, N154).
REPEAT executes a LOADW and a pass several times (N159). No instruction depends on a tensor value, so every run executes the same
instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from accel.npu import isa
from accel.npu.geometry import ADDRESS_MASK
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram
from edgewright.errors import PackageError

WORDS = isa.WORD_BITS // 32
Placed = tuple[int, isa.Instruction]
"""The address of an instruction in the program memory, and the instruction."""


def executed(program: NpuProgram, profile: NpuProfile) -> list[isa.Instruction]:
    """Return the executed instructions up to the first HALT.

    Raises:
        PackageError: a word is not an instruction, or the program has no HALT.
    """
    return [instruction for _, instruction in trace(program, profile)]


def trace(program: NpuProgram, profile: NpuProfile) -> list[Placed]:
    """Return the executed instructions like `executed`, each with its address."""
    placed = list(_repeated(follow(program, profile)))
    if not placed or not isinstance(placed[-1][1], isa.Halt):
        raise PackageError("an NPU program must end with HALT")
    return placed


def follow(program: NpuProgram, profile: NpuProfile) -> Iterator[Placed]:
    """Yield the instructions without unrolling REPEAT, page after page, up to the first HALT."""
    depth = profile.instructions
    memory: list[isa.Instruction] = isa.decode(program.instructions)
    memory += [isa.Halt()] * (depth - len(memory))
    for count in range(len(program.instructions) + len(program.external) // WORDS):
        at = count % len(memory)
        yield at, memory[at]
        if isinstance(memory[at], isa.Halt):
            return
        fetch = memory[at]
        if isinstance(fetch, isa.Dma) and fetch.region == isa.Region.PROGRAM:
            first, fetched = fetch.local // WORDS, _fetched(program, fetch)
            if first + len(fetched) > depth:
                raise PackageError(
                    f"instruction {count} (DMA): the program memory ends at {depth}, but {first + len(fetched)} is used"
                )
            memory[first : first + len(fetched)] = fetched


def _fetched(program: NpuProgram, transfer: isa.Dma) -> list[isa.Instruction]:
    words = program.external[transfer.external : transfer.external + transfer.words]
    if transfer.runs != 1 or len(words) < transfer.words or transfer.words % WORDS or transfer.local % WORDS:
        raise PackageError(
            "a fetch must cover complete, contiguous instructions in the program's constants: the program is damaged"
        )
    return isa.decode(words.reshape(-1, WORDS))


def _repeated(placed: Iterator[Placed]) -> Iterator[Placed]:
    for at, instruction in placed:
        yield at, instruction
        if isinstance(instruction, isa.Repeat):
            (load_at, load), (pass_at, array_pass) = next(placed, (0, isa.Halt())), next(placed, (0, isa.Halt()))
            if not isinstance(load, isa.LoadW) or not isinstance(array_pass, isa.ArrayPass) or not instruction.count:
                raise PackageError(f"REPEAT at {at} must precede a LOADW and an array pass, and its count must be 1 or more")
            for repetition in range(instruction.count):
                base = array_pass.base + repetition * instruction.base_step & ADDRESS_MASK
                yield load_at, replace(load, address=load.address + repetition * instruction.address_step)
                yield pass_at, replace(array_pass, base=base)


def extra_executions(instruction: isa.Instruction) -> int:
    """Return the number of instructions that a REPEAT executes in addition to those in the program."""
    return 2 * (instruction.count - 1) if isinstance(instruction, isa.Repeat) else 0
