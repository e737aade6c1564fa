"""Turn layers into work and transfers: the jobs of every tile, and what must be on the chip before each of them.

Weights, parameters and tensors live in the external memory. Every load finds its room in one of the chip's memories, and waits
until the one before it there is not in use any more; every result goes back out behind its job. The order of the jobs is
plan.py's choice; when each transfer goes is order.py's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from accel.npu import isa
from accel.npu.compiler.streaming.jobs import JobSteps
from accel.npu.compiler.streaming.order import Stream, Transfer
from accel.npu.compiler.streaming.rooms import Constants, Resident, Ring, TensorRuns
from accel.npu.profile import NpuProfile


class Streamer:
    """The chip's memories and the transfers into and out of them, in the order in which they are asked for."""

    def __init__(self, profile: NpuProfile, places: Mapping[str, int], tensors_at: int, tensor_vectors: int) -> None:
        self.profile = profile
        self.transfers: list[Transfer] = []
        self.constants = Constants()
        self.jobs = JobSteps(profile)
        self.weights = Ring(profile.weight_rows)
        self.parameters = Ring(profile.parameter_groups)
        self._line = profile.columns // 4
        self._places = places
        self._tensors_at = tensors_at
        self._read_until = np.full(profile.activation_vectors, -1, np.int64)
        """For every vector on the chip, the last task whose passes read it."""
        self._vector_until = np.full(profile.activation_vectors, -1, np.int64)
        """For every vector on the chip, the last VEC that reads or writes it."""
        self._stored_by = np.full(profile.activation_vectors, -1, np.int64)
        self._written_by = np.full(tensor_vectors, -1, np.int64)
        """For every vector on the chip, and of the tensors outside, the last transfer that stores it."""

    def load_weights(self, external: int, first: int, rows: int, at: int) -> Resident:
        """Bring rows of a layer's weights, which begin at word `external`, to row `at`."""
        line = self._line
        transfer = self._add(isa.Region.WEIGHTS, external + first * line, at * line, rows * line, Stream.WEIGHTS)
        transfer.after_pass = self.weights.free_after(at, rows)
        return Resident(first, rows, at, transfer)

    def load_parameters(self, external: int, first: int, groups: int, at: int) -> Resident:
        """Bring groups of a layer's parameters, which begin at word `external`, to group `at`."""
        words = 4 * self.profile.vector_lanes
        transfer = self._add(isa.Region.PARAMETERS, external + first * words, at * words, groups * words, Stream.PARAMETERS)
        transfer.after_vector = self.parameters.free_after(at, groups)
        return Resident(first, groups, at, transfer)

    def load_tensor(self, runs: TensorRuns, stream: Stream) -> Transfer:
        """Bring a part of a tensor in, when the room is free and the part was stored."""
        transfer, behind = self._move(runs, stream), -1
        for run in range(runs.runs):
            outside, inside = self._slices(runs, run)
            transfer.after_task = max(transfer.after_task, int(self._read_until[inside].max()))
            transfer.after_vector = max(transfer.after_vector, int(self._vector_until[inside].max()))
            behind = max(behind, int(self._written_by[outside].max()), int(self._stored_by[inside].max()))
        transfer.after = self.transfers[behind] if behind >= 0 else None
        return transfer

    def store_tensor(self, runs: TensorRuns, after_vector: int) -> None:
        """Put a part of a tensor out, behind a VEC."""
        self._move(runs, Stream.STORES).after_vector = after_vector
        for run in range(runs.runs):
            outside, inside = self._slices(runs, run)
            self._written_by[outside] = self._stored_by[inside] = len(self.transfers) - 1
            self._vector_until[inside] = after_vector

    def stored(self, local: int, count: int) -> tuple[Transfer, ...]:
        """Return the transfer that must be done before these vectors may be written."""
        last = int(self._stored_by[local : local + count].max())
        return () if last < 0 else (self.transfers[last],)

    def mark_read(self, at: int, blocks: int, pitch: int, low: int, high: int) -> None:
        """Remember that the task that was added last reads vectors `low` to `high` of each block from vector `at` on."""
        self._read_until[at : at + blocks * pitch].reshape(blocks, pitch)[:, low:high] = self.jobs.last

    def mark_vector(self, at: int, count: int, number: int) -> None:
        """Remember that a VEC writes these vectors, and may read them before."""
        self._vector_until[at : at + count] = number

    def _slices(self, runs: TensorRuns, run: int) -> tuple[slice, slice]:
        outside = self._places[runs.tensor] + runs.offset + run * runs.plane
        inside = runs.local + run * runs.local_pitch
        return slice(outside, outside + runs.count), slice(inside, inside + runs.count)

    def _move(self, runs: TensorRuns, stream: Stream) -> Transfer:
        line = self._line
        external = (self._tensors_at + self._places[runs.tensor] + runs.offset) * line
        pitches = (runs.plane * line, runs.local_pitch * line) if runs.runs > 1 else (0, 0)
        return self._add(
            isa.Region.ACTIVATIONS, external, runs.local * line, runs.count * line, stream, runs=runs.runs, pitches=pitches
        )

    def _add(
        self,
        region: isa.Region,
        external: int,
        local: int,
        words: int,
        stream: Stream,
        *,
        runs: int = 1,
        pitches: tuple[int, int] = (0, 0),
    ) -> Transfer:
        instruction = isa.Dma(
            store=int(stream is Stream.STORES),
            region=region,
            external=external,
            local=local,
            words=words,
            runs=runs,
            external_pitch=pitches[0],
            local_pitch=pitches[1],
        )
        self.transfers.append(Transfer(instruction, stream))
        return self.transfers[-1]
