"""The functional model: executes a program on NumPy integers, for many images at once.

It defines the correct result for the RTL, the boards and the compiler. A program has no branch that depends on its input. So it
is *planned* once (plan.py: addresses, weights and settings of every pass) and then executed on any number of batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from accel.npu.arithmetic import Int8, Int32, add_residual, requantize
from accel.npu.model.plan import MatrixStep, Plan, TapStep, TransferStep, VectorStep, plan
from accel.npu.profile import NpuProfile
from accel.npu.program import EXTERNAL_BASE, NpuProgram

BATCH = 16
"""Images per run of the program: enough for NumPy, few enough for the processor's cache."""


class FunctionalModel:
    """Machine (machines/host.py) that computes in NumPy."""

    def __init__(self, profile: NpuProfile) -> None:
        self.profile = profile
        self._plan = Plan()

    def load(self, program: NpuProgram) -> None:
        """Check and plan the program."""
        self._plan = plan(program, self.profile)

    def execute(self, inputs: Mapping[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]:
        """Write `inputs` (address: [count, vectors, columns]), run, and read `outputs` (address, vectors) back."""
        count = len(next(iter(inputs.values())))
        batches = [
            self._execute({at: vectors[start : start + BATCH] for at, vectors in inputs.items()}, outputs)
            for start in range(0, count, BATCH)
        ]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def _execute(self, inputs: Mapping[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]:
        count = len(next(iter(inputs.values())))
        spans = [(at, vectors.shape[1]) for at, vectors in inputs.items()] + list(outputs)
        state = _State(self.profile, count, self._plan, max(at + length for at, length in spans))
        for at, vectors in inputs.items():
            state.memory(at, vectors.shape[1])[...] = vectors
        for step in self._plan.steps:
            if isinstance(step, MatrixStep):
                _multiply(step, state)
            elif isinstance(step, TapStep):
                _combine_taps(step, state)
            elif isinstance(step, TransferStep):
                _transfer(step, state)
            else:
                _finish_vectors(step, state)
        return [state.memory(at, length).copy() for at, length in outputs]


class _State:
    """Contents of the memories, per image. One vector per padding value follows the activations."""

    def __init__(self, profile: NpuProfile, count: int, planned: Plan, end: int) -> None:
        depth = profile.activation_vectors
        self.activations = np.zeros((count, depth + len(planned.paddings), profile.columns), np.int8)
        for place, value in enumerate(planned.paddings):
            self.activations[:, depth + place] = value
        self.accumulators = np.zeros((count, 2 * profile.accumulator_depth, profile.rows), np.int32)
        self._tensors_begin = EXTERNAL_BASE + planned.tensors_begin
        tensor_vectors = max(planned.tensor_vectors, end - self._tensors_begin)
        self.tensors = np.zeros((count, tensor_vectors, profile.columns), np.int8)

    def memory(self, at: int, length: int) -> Int8:
        """Return the vectors at a host address, in the activation memory or in external memory."""
        if at < EXTERNAL_BASE:
            return self.activations[:, at : at + length]
        first = at - self._tensors_begin
        return self.tensors[:, first : first + length]


def _multiply(step: MatrixStep, state: _State) -> None:
    """Execute a GEMM in floating point: plan.py limits the sums to the mantissa, so they are exact before they wrap (N4)."""
    gathered = _gather(state, step.addresses)
    count, positions = len(gathered), step.addresses.shape[0]
    rows = gathered.reshape(count * positions, -1)
    if step.weights.dtype == np.float32:
        product = (rows.astype(np.float32) @ step.weights).astype(np.int32)
    else:
        product = (rows.astype(np.float64) @ step.weights).astype(np.int64).astype(np.int32)
    sums = product.reshape(count, positions, -1)
    _accumulate(state, step.accumulator, sums, accumulate=step.accumulate)


def _combine_taps(step: TapStep, state: _State) -> None:
    """Execute a DW or POOL, channel by channel: only the first `columns` lanes are used, the others get zeros."""
    gathered = _gather(state, step.addresses).astype(np.int32)
    if step.weights is not None:
        gathered *= step.weights
    combined = gathered.max(axis=2) if step.maximum else gathered.sum(axis=2, dtype=np.int32)
    lanes = np.zeros((*combined.shape[:2], state.accumulators.shape[2]), np.int32)
    lanes[..., : combined.shape[2]] = combined
    if step.maximum and step.accumulate:
        entries = _entries(state, step.accumulator, lanes.shape[1])
        np.maximum(entries, lanes, out=entries)
    else:
        _accumulate(state, step.accumulator, lanes, accumulate=step.accumulate)


def _transfer(step: TransferStep, state: _State) -> None:
    """Execute a DMA of activations, run by run."""
    for local, tensor in step.runs:
        on_chip, off_chip = state.activations[:, local : local + step.count], state.tensors[:, tensor : tensor + step.count]
        if step.store:
            off_chip[...] = on_chip
        else:
            on_chip[...] = off_chip


def _finish_vectors(step: VectorStep, state: _State) -> None:
    """Execute a VEC, one part after another, as the hardware writes them."""
    columns = state.activations.shape[2]
    entries = _entries(state, step.accumulator, step.count)
    for part, settings in enumerate(step.parts):
        lanes = entries[..., part * columns : (part + 1) * columns]
        result = requantize(lanes, settings.bias, settings.multiplier, settings.shift, step.output)
        if step.residual is not None:
            other = state.activations[:, settings.residual : settings.residual + step.count]
            result = add_residual(result, other, step.residual)
        state.activations[:, settings.destination : settings.destination + step.count] = result


def _gather(state: _State, addresses: npt.NDArray[np.int64]) -> Int8:
    """Return the vectors at `addresses` as int8 [count, positions, taps, columns]."""
    gathered = state.activations.take(addresses.ravel(), axis=1)
    return gathered.reshape(len(gathered), *addresses.shape, gathered.shape[-1])


def _entries(state: _State, start: int, count: int) -> Int32:
    return state.accumulators[:, start : start + count]


def _accumulate(state: _State, start: int, values: Int32, *, accumulate: bool) -> None:
    entries = _entries(state, start, values.shape[1])
    if accumulate:
        entries += values
    else:
        entries[...] = values
