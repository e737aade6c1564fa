"""What place and route said about a build: clock, resources, and exactly what it was made from.

`edgewright npu bitstream` writes such a record beside every bitstream; the ones of the shipped profiles are committed under
`implementations/`. A record knows the hash of the sources that it speaks of, so that figures which no longer describe the RTL
are shown as stale and never as today's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.npu.hardware.boards import BOARDS, Board
from accel.npu.profile import NpuProfile
from edgewright.contracts import wire
from edgewright.errors import OperationError

RECORDS = Path(__file__).parents[1] / "implementations"
RESOURCES = {
    "multipliers": "MULT18X18D",
    "logic": "TRELLIS_COMB",
    "flip_flops": "TRELLIS_FF",
    "block_rams": "DP16KD",
    "plls": "EHXPLLL",
}
"""Our words for nextpnr-ecp5's: 18x18 multipliers, 4-input lookup tables (half a carry cell counts as one), 18-kbit memories."""


@dataclass(frozen=True, slots=True)
class Use:
    """How much of one kind of resource a design takes."""

    used: int
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """One placed and routed build."""

    profile: str
    profile_hash: str
    sources_sha256: str
    """Over the RTL, the top module and the constraints."""
    part: str
    baud: int
    seed: int
    clock_mhz: float
    """What the PLL makes."""
    fmax_mhz: float
    """What nextpnr's timing analysis allows, slow corner of the speed grade."""
    resources: Mapping[str, Use]
    tools: Mapping[str, str]
    bitstream_sha256: str


def sources_sha256(board: Board) -> str:
    """Return the hash of everything in this edgewright that decides what is built for `board`."""
    sha256 = hashlib.sha256()
    for source in board.sources:
        content = source.read_bytes()
        sha256.update(f"{source.name} {len(content)}\n".encode() + content)
    return sha256.hexdigest()


def read_report(report: Mapping[str, Any]) -> tuple[float, dict[str, Use]]:
    """Return the slowest clock's Fmax (MHz) and the use of `RESOURCES` from nextpnr's JSON report."""
    try:
        fmax = min(float(clock["achieved"]) for clock in report["fmax"].values())
        used = {name: report["utilization"][cell] for name, cell in RESOURCES.items()}
        return fmax, {name: Use(int(use["used"]), int(use["available"])) for name, use in used.items()}
    except (KeyError, TypeError, ValueError) as wrong:
        raise OperationError(f"nextpnr-ecp5's report must have fmax and utilization, but it lacks {wrong}") from wrong


def recorded(name: str) -> Implementation | None:
    """Return the committed record of a shipped profile, None when there is none."""
    path = RECORDS / f"{name}.json"
    if not path.is_file():
        return None
    return wire.decode(path.read_bytes(), Implementation, what=path.name, error=OperationError)


def is_stale(record: Implementation, profile: NpuProfile) -> bool:
    """Return whether the RTL, the constraints or the profile changed since the record was made."""
    board = BOARDS.get(profile.name)
    return board is None or (record.sources_sha256, record.profile_hash) != (sources_sha256(board), profile.hash.hex())


def status(profile: NpuProfile) -> str:
    """Return the profile's status with what place and route said about it, for `edgewright npu profiles`."""
    record = recorded(profile.name)
    if record is None:
        return profile.status
    told = f"{profile.status}; placed and routed: {figures(record)}"
    return f"{told} (stale: made from other sources)" if is_stale(record, profile) else told


def figures(record: Implementation) -> str:
    """Return clock and resources in one line."""
    known = {name: record.resources[name] for name in RESOURCES if name in record.resources}
    uses = ", ".join(f"{use.used} of {use.available} {name.replace('_', ' ')}" for name, use in known.items())
    return f"{record.fmax_mhz:.1f} MHz, {uses}"
