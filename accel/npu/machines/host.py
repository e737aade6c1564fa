"""Run a program on a machine: quantize and pack the inputs, execute, unpack and dequantize the outputs.

A machine is the functional model (model/functional_model.py), the RTL simulator (rtl_simulator.py) or a board (board.py). Their
results have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from accel.npu.arithmetic import Int8
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram, SegmentRecord
from accel.npu.tensors import TensorPlace, dequantize, pack, quantize, unpack
from edgewright.errors import PackageError, SamplesError

Tensors = dict[str, npt.NDArray[Any]]
Step = Callable[[Tensors], Tensors]
"""A part of a network on the host, or a segment on the NPU: reads what it needs from the tensors so far, returns its results."""


class Machine(Protocol):
    """Protocol of everything that executes programs."""

    profile: NpuProfile

    def load(self, program: NpuProgram) -> None:
        """Check the program; `execute` runs it."""

    def execute(self, inputs: Mapping[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]:
        """Write `inputs` (address: [count, vectors, columns]), run, and read `outputs` (address, vectors) back."""


def run_in_turn(segments: Sequence[Step], parts: Mapping[int, Step], inputs: Tensors) -> Tensors:
    """Run a network that alternates between host and NPU; return `inputs` and the results of all steps.

    Args:
        segments: the segments of the NPU.
        parts: the parts of the host, by the number of the segment that follows; that of the head is the number of segments.
        inputs: the inputs of the network.
    """
    tensors = dict(inputs)
    for number, segment in enumerate((*segments, None)):
        for step in (parts.get(number), segment):
            if step is not None:
                tensors |= step(tensors)
    return tensors


class Session:
    """A program loaded on a machine, for inputs and outputs in real values."""

    def __init__(self, machine: Machine, program: NpuProgram) -> None:
        self.program = program
        self._machine = machine
        if not program.description.inputs or not program.description.outputs:
            raise PackageError("a program must have at least one input and one output, but this one lacks them: it is damaged")
        machine.load(program)

    @property
    def steps(self) -> list[Step]:
        """The segments of the program."""
        return [partial(self.run, segment=segment) for segment in self.program.description.runs]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], segment: SegmentRecord | None = None) -> Tensors:
        """Run inputs by name, as their tensor places describe; return the outputs by name, in real values.

        Args:
            inputs: the inputs of the segment, and any others.
            segment: the segment to compute; None computes all, which needs the inputs of all.

        Raises:
            SamplesError: an input is missing, is empty, has the wrong shape or holds NaN.
        """
        description = self.program.description
        places = [place for place in description.inputs if segment is None or place.name in segment.inputs]
        integers = self.run_integers({place.name: self._quantized(inputs, place) for place in places}, segment)
        return {place.name: dequantize(integers[place.name], place) for place in description.outputs if place.name in integers}

    def run_integers(self, inputs: Mapping[str, Int8], segment: SegmentRecord | None = None) -> dict[str, Int8]:
        """Run inputs that are already quantized; return the outputs as int8."""
        columns, description = self._machine.profile.columns, self.program.description
        if len({len(array) for array in inputs.values()}) > 1:
            counts = ", ".join(f"{name} {len(array)}" for name, array in inputs.items())
            raise SamplesError(f"the inputs must have one number of samples, not {counts}")
        given = [place for place in description.inputs if place.name in inputs]
        packed = {place.base: pack(inputs[place.name], place, columns) for place in given}
        computed = [place for place in description.outputs if segment is None or place.name in segment.outputs]
        outputs = [(place.base, place.vectors(columns)) for place in computed]
        results = self._machine.execute(packed, outputs)
        return {place.name: unpack(raw, place, columns) for place, raw in zip(computed, results, strict=True)}

    def _quantized(self, inputs: Mapping[str, npt.NDArray[Any]], place: TensorPlace) -> Int8:
        if place.name not in inputs:
            raise SamplesError(f"the inputs must have {place.name}, but they have {', '.join(inputs) or 'no array'}")
        values = inputs[place.name]
        if not len(values) or np.isnan(values).any():
            raise SamplesError(f"input {place.name} must have at least one sample, and no value may be NaN")
        return quantize(values, place)
