"""Run a program on a machine: quantize and lay out the inputs, execute, read the outputs back.

A machine is the functional model (model/functional_model.py), the RTL (rtl_simulator.py) or a board (board.py). Their results
are the same bits, so callers need not distinguish them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from accel.npu.arithmetic import Int8
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram
from accel.npu.tensors import TensorPlace, dequantize, pack, quantize, unpack
from edgewright.errors import PackageError, SamplesError


class Machine(Protocol):
    """Something that executes programs."""

    profile: NpuProfile

    def load(self, program: NpuProgram) -> None:
        """Check the program and make it the one that `execute` runs."""

    def execute(self, inputs: Mapping[int, Int8], wanted: Sequence[tuple[int, int]]) -> list[Int8]:
        """Write `inputs` (address: [count, vectors, columns]), run, and read `wanted` (address, vectors) back."""


class Session:
    """One program on one machine: real values in, real values out."""

    def __init__(self, machine: Machine, program: NpuProgram) -> None:
        self.program = program
        self._machine = machine
        if not program.description.inputs or not program.description.outputs:
            raise PackageError("a program must have inputs and outputs, but this one has none to feed or to read: it is damaged")
        machine.load(program)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Run [count, channels, height, width] inputs by name; return the outputs by name, in real values."""
        integers = self.run_integers({place.name: self._quantized(inputs, place) for place in self.program.description.inputs})
        return {place.name: dequantize(integers[place.name], place) for place in self.program.description.outputs}

    def run_integers(self, inputs: Mapping[str, Int8]) -> dict[str, Int8]:
        """Run inputs that are quantized already; return the outputs as int8."""
        columns, description = self._machine.profile.columns, self.program.description
        packed = {place.base: pack(inputs[place.name], place, columns) for place in description.inputs}
        wanted = [(place.base, place.vectors(columns)) for place in description.outputs]
        results = self._machine.execute(packed, wanted)
        return {place.name: unpack(raw, place, columns) for place, raw in zip(description.outputs, results, strict=True)}

    def _quantized(self, inputs: Mapping[str, npt.NDArray[Any]], place: TensorPlace) -> Int8:
        if place.name not in inputs:
            raise SamplesError(f"the program's input {place.name} is missing; found: {', '.join(inputs) or 'none'}")
        values = inputs[place.name]
        if not len(values) or np.isnan(values).any():
            raise SamplesError(f"input {place.name} must have at least one sample, and no value that is not a number")
        return quantize(values, place)
