"""Create the transfers between external memory and the chip, with their dependencies.

External memory stores weights, parameters and tensors. A load waits until the previous contents of its destination are no longer
used. A store waits for the VEC that computes the result. plan.py chooses the order of the jobs; order.py chooses when each
transfer is issued.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from accel.npu import isa
from accel.npu.compiler.streaming.buffers import Constants, Resident, RingBuffer, TensorRuns
from accel.npu.compiler.streaming.jobs import JobSteps
from accel.npu.compiler.streaming.order import Stream, Transfer
from accel.npu.profile import NpuProfile


class Streamer:
    """The memories of the chip and the transfers to and from them, in order of request."""

    def __init__(self, profile: NpuProfile, places: Mapping[str, int], tensors_at: int, tensor_vectors: int) -> None:
        self.profile = profile
        self.transfers: list[Transfer] = []
        self.constants = Constants()
        self.jobs = JobSteps(profile)
        self.weights = RingBuffer(profile.weight_rows)
        self.parameters = RingBuffer(profile.parameter_groups)
        self._line = profile.columns // 4
        self._places = places
        self._tensors_at = tensors_at
        self._read_until = np.full(profile.activation_vectors, -1, np.int64)
        """Per vector on the chip, the last task whose passes read it."""
        self._vector_until = np.full(profile.activation_vectors, -1, np.int64)
        """Per vector on the chip, the last VEC that reads or writes it."""
        self._stored_by = np.full(profile.activation_vectors, -1, np.int64)
        """Per vector on the chip, the last transfer that stores it."""
        self._written_by = np.full(tensor_vectors, -1, np.int64)
        """Per vector of the off-chip tensors, the last transfer that writes it."""

    def load_weights(self, external: int, first: int, rows: int, at: int) -> Resident:
        """Load rows of a layer's weights, which begin at word `external`, to row `at`."""
        line = self._line
        transfer = self._add(isa.Region.WEIGHTS, external + first * line, at * line, rows * line, Stream.WEIGHTS)
        transfer.after_pass = self.weights.last_use(at, rows)
        return Resident(first, rows, at, transfer)

    def load_parameters(self, external: int, first: int, groups: int, at: int) -> Resident:
        """Load groups of a layer's parameters, which begin at word `external`, to group `at`."""
        words = 4 * self.profile.vector_lanes
        transfer = self._add(isa.Region.PARAMETERS, external + first * words, at * words, groups * words, Stream.PARAMETERS)
        transfer.after_vector = self.parameters.last_use(at, groups)
        return Resident(first, groups, at, transfer)

    def load_tensor(self, runs: TensorRuns, stream: Stream) -> Transfer:
        """Load a part of a tensor, after the part was stored and its destination is free."""
        transfer, after = self._move(runs, stream), -1
        for run in range(runs.runs):
            off_chip, on_chip = self._slices(runs, run)
            transfer.after_task = max(transfer.after_task, int(self._read_until[on_chip].max()))
            transfer.after_vector = max(transfer.after_vector, int(self._vector_until[on_chip].max()))
            after = max(after, int(self._written_by[off_chip].max()), int(self._stored_by[on_chip].max()))
        transfer.after = self.transfers[after] if after >= 0 else None
        return transfer

    def store_tensor(self, runs: TensorRuns, after_vector: int) -> None:
        """Store a part of a tensor, after a VEC."""
        self._move(runs, Stream.STORES).after_vector = after_vector
        for run in range(runs.runs):
            off_chip, on_chip = self._slices(runs, run)
            self._written_by[off_chip] = self._stored_by[on_chip] = len(self.transfers) - 1
            self._vector_until[on_chip] = after_vector

    def last_store(self, local: int, count: int) -> tuple[Transfer, ...]:
        """Return the last transfer, if any, that stores these vectors; it must complete before they are written."""
        last = int(self._stored_by[local : local + count].max())
        return () if last < 0 else (self.transfers[last],)

    def mark_read(self, at: int, blocks: int, pitch: int, low: int, high: int) -> None:
        """Record that the last task reads vectors `low` to `high` of each block, from vector `at`."""
        self._read_until[at : at + blocks * pitch].reshape(blocks, pitch)[:, low:high] = self.jobs.last

    def mark_vector(self, at: int, count: int, number: int) -> None:
        """Record that a VEC writes these vectors, and possibly reads them first."""
        self._vector_until[at : at + count] = number

    def _slices(self, runs: TensorRuns, run: int) -> tuple[slice, slice]:
        off_chip = self._places[runs.tensor] + runs.offset + run * runs.plane
        on_chip = runs.local + run * runs.local_pitch
        return slice(off_chip, off_chip + runs.count), slice(on_chip, on_chip + runs.count)

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
