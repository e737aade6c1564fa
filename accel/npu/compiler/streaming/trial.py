"""Measure the run time of work without other work in parallel, with the exact cycle model."""

from __future__ import annotations

from collections.abc import Sequence

from accel.npu.compiler.streaming.order import in_order, set_needed_by
from accel.npu.compiler.streaming.rows import tensors_of
from accel.npu.compiler.streaming.streamer import Streamer
from accel.npu.lowering.layers import Layer
from accel.npu.profile import NpuProfile


def trial_streamer(layers: Sequence[Layer], profile: NpuProfile) -> Streamer:
    """Return a streamer whose external memory stores only the tensors of these layers."""
    places, end = {}, 0
    for tensor in tensors_of(layers).values():
        places[tensor.name] = end
        end += -(-tensor.channels // profile.columns) * tensor.height * tensor.width
    return Streamer(profile, places, 0, end)


def cycles_alone(streamer: Streamer) -> int:
    """Return the cycles of the jobs and transfers that were added to the streamer."""
    streamer.jobs.finish()
    set_needed_by(streamer.jobs.steps)
    return in_order(streamer.jobs.steps, streamer.transfers, streamer.profile, pages_at=0).cycles
