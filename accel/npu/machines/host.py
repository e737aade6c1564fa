"""Run a program on a machine: quantize and pack the inputs, execute, unpack and dequantize the outputs.

A machine is the functional model (model/functional_model.py), the RTL simulator (rtl_simulator.py) or a board (board.py). Their
results have the same bits.
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
    """Protocol of everything that executes programs."""

    profile: NpuProfile

    def load(self, program: NpuProgram) -> None:
        """Check the program; `execute` runs it."""

    def execute(self, inputs: Mapping[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]:
        """Write `inputs` (address: [count, vectors, columns]), run, and read `outputs` (address, vectors) back."""


class Session:
    """A program loaded on a machine, for inputs and outputs in real values."""

    def __init__(self, machine: Machine, program: NpuProgram) -> None:
        self.program = program
        self._machine = machine
        if not program.description.inputs or not program.description.outputs:
            raise PackageError("a program must have at least one input and one output, but this one lacks them: it is damaged")
        machine.load(program)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Run inputs by name, as their tensor places describe; return the outputs by name, in real values.

        Raises:
            SamplesError: an input is missing, is empty, has the wrong shape or holds NaN.
        """
        integers = self.run_integers({place.name: self._quantized(inputs, place) for place in self.program.description.inputs})
        return {place.name: dequantize(integers[place.name], place) for place in self.program.description.outputs}

    def run_integers(self, inputs: Mapping[str, Int8]) -> dict[str, Int8]:
        """Run inputs that are already quantized; return the outputs as int8."""
        columns, description = self._machine.profile.columns, self.program.description
        packed = {place.base: pack(inputs[place.name], place, columns) for place in description.inputs}
        outputs = [(place.base, place.vectors(columns)) for place in description.outputs]
        results = self._machine.execute(packed, outputs)
        return {place.name: unpack(raw, place, columns) for place, raw in zip(description.outputs, results, strict=True)}

    def _quantized(self, inputs: Mapping[str, npt.NDArray[Any]], place: TensorPlace) -> Int8:
        if place.name not in inputs:
            raise SamplesError(f"the inputs must have {place.name}, but they have {', '.join(inputs) or 'no array'}")
        values = inputs[place.name]
        if not len(values) or np.isnan(values).any():
            raise SamplesError(f"input {place.name} must have at least one sample, and no value may be NaN")
        return quantize(values, place)
