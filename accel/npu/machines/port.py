"""An NPU accessed through a port, as a machine: the RTL in a shared library (rtl_simulator.py) or a board (board.py).

Both have the same port: words in regions (docs/spec/npu.md, N80-N83). This module loads programs, writes inputs and reads
outputs for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from accel.npu.arithmetic import Int8
from accel.npu.model.checks import check_program
from accel.npu.model.timing import Counters
from accel.npu.profile import NpuProfile
from accel.npu.program import EXTERNAL_BASE, NpuProgram
from accel.npu.registers import (
    ACTIVATIONS,
    EXTERNAL,
    FIRST_COUNTER,
    MAGIC,
    PARAMETERS,
    PROGRAM,
    REGISTERS,
    STATUS,
    STATUS_DONE,
    TENSORS,
    WEIGHTS,
    Words,
)
from edgewright.errors import OperationError, ProfileError


class Port(Protocol):
    """Protocol of the access to an NPU: words in regions, start and wait."""

    def upload(self, memories: Mapping[int, Words]) -> None:
        """Write the memories of a program, each from address 0."""

    def write(self, region: int, address: int, words: Words) -> None:
        """Write words of the activations from `address` on."""

    def read(self, region: int, address: int, count: int) -> Words:
        """Read words of the registers or the activations."""

    def start(self) -> None:
        """Start the uploaded program."""

    def wait_until_idle(self) -> None:
        """Return when the core is idle; raise `EdgewrightError` if that takes too long."""


class Hardware:
    """Machine (host.py) that runs one image at a time on the NPU of a port.

    Raises:
        OperationError: the device is not an NPU.
        ProfileError: the NPU has another profile.
    """

    def __init__(self, profile: NpuProfile, port: Port) -> None:
        self.profile = profile
        self.port = port
        self.counters: Counters | None = None
        self._check_identity()

    def load(self, program: NpuProgram) -> None:
        """Check the program and upload it."""
        check_program(program, self.profile)
        self.port.upload(memories_of(program))

    def execute(self, inputs: Mapping[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]:
        """Write `inputs` (address: [count, vectors, columns]), run, and read `outputs` (address, vectors) back."""
        count = len(next(iter(inputs.values())))
        images = [self._execute({at: vectors[image] for at, vectors in inputs.items()}, outputs) for image in range(count)]
        return [np.stack(parts) for parts in zip(*images, strict=True)]

    def start(self) -> None:
        """Run the uploaded program until the core is idle, and read its counters.

        Raises:
            OperationError: the program has an unknown instruction.
        """
        self.port.start()
        self.port.wait_until_idle()
        if not int(self.port.read(REGISTERS, STATUS, 1)[0]) & STATUS_DONE:
            raise OperationError("the NPU stopped at an unknown instruction; load the program again")
        self.counters = Counters(*map(int, self.port.read(REGISTERS, FIRST_COUNTER, len(Counters.__slots__))))

    def _execute(self, inputs: Mapping[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]:
        words, shape = self.profile.columns // 4, (-1, self.profile.columns)
        for at, vectors in inputs.items():
            self.port.write(*_located(at, words), _as_words(vectors))
        self.start()
        return [self.port.read(*_located(at, words), length * words).view(np.int8).reshape(shape) for at, length in outputs]

    def _check_identity(self) -> None:
        magic, _, *hash_words = map(int, self.port.read(REGISTERS, 0, 4))
        if magic != MAGIC:
            raise OperationError(
                f"register 0 of an NPU must read {MAGIC:#x}, but this device returns {magic:#x}: it is not an NPU"
            )
        profile_hash = b"".join(word.to_bytes(4, "little") for word in hash_words)
        if profile_hash != self.profile.hash[:8]:
            raise ProfileError(
                f"the NPU must be {self.profile.name} ({self.profile.hash.hex()[:16]}), but it is {profile_hash.hex()}; "
                "choose the profile that its bitstream was built for"
            )


def _located(vector: int, words: int) -> tuple[int, int]:
    """Return region and word address of a host's vector address (N156)."""
    return (TENSORS, (vector - EXTERNAL_BASE) * words) if vector >= EXTERNAL_BASE else (ACTIVATIONS, vector * words)


def memories_of(program: NpuProgram) -> dict[int, Words]:
    """Return the words of each memory that a program fills, by region."""
    parameters = np.pad(program.parameters, ((0, 0), (0, 0), (0, 1)))
    memories: dict[int, npt.NDArray[Any]] = {PROGRAM: program.instructions, WEIGHTS: program.weights, PARAMETERS: parameters}
    if len(program.external):
        memories[EXTERNAL] = program.external
    return {region: _as_words(values) for region, values in memories.items()}


def _as_words(values: npt.NDArray[Any]) -> Words:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint32)
