"""The time that tensors take over the serial line between the host and the NPU, and what an NPU saves the host.

A frame of 56 words has 14 more bytes on the way to the NPU and 10 on the way back, and a byte takes ten bits (docs/spec/npu.md,
N100 to N103). Answers of the other direction and the waiting time of a USB adapter are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from accel.npu.profile import NpuProfile

FRAME_BYTES = 4 * 56
REQUEST_OVERHEAD, ANSWER_OVERHEAD = 14, 10
BITS_PER_BYTE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCost:
    """The cost of one segment of the NPU (lowering/segments.py), and that of the same layers on the host."""

    macs: int
    input_bytes: int
    output_bytes: int
    crossing_ms: float
    """The time of both transfers at the profile's `link_baud`."""
    host_ms: float
    """The time of the same multiplications on the host, at the profile's `host_mmac_per_s`."""


def segment_cost(profile: NpuProfile, macs: int, input_bytes: int, output_bytes: int) -> SegmentCost:
    """Return the cost of a segment with these transfers per sample."""
    return SegmentCost(
        macs=macs,
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        crossing_ms=_line_ms(input_bytes, REQUEST_OVERHEAD, profile) + _line_ms(output_bytes, ANSWER_OVERHEAD, profile),
        host_ms=macs / profile.host_mmac_per_s / 1e3,
    )


def _line_ms(content_bytes: int, overhead: int, profile: NpuProfile) -> float:
    frames = -(-content_bytes // FRAME_BYTES)
    return 1e3 * BITS_PER_BYTE * (content_bytes + frames * overhead) / profile.link_baud
