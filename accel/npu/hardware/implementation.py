"""Records of place and route: clock, resources, and the exact inputs of a build.

`edgewright npu bitstream` writes a record beside every bitstream; those of the shipped profiles are committed under
`implementations/`. A record has the hash of its sources, so figures of an older RTL are shown as stale.
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
"""nextpnr-ecp5's cell types by resource: `logic` counts 4-input lookup tables (half a carry cell counts as one), `multipliers`
are 18x18 bits, `block_rams` 18 kbit."""


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """Used and available number of one kind of resource."""

    used: int
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """Record of one placed and routed build."""

    profile: str
    profile_hash: str
    sources_sha256: str
    """Hash over the RTL, the top module and the constraints, without comments."""
    part: str
    baud: int
    seed: int
    clock_mhz: float
    """Clock that the PLL generates."""
    fmax_mhz: float
    """Maximum clock by nextpnr's timing analysis, in the slow corner of the speed grade."""
    resources: Mapping[str, ResourceUse]
    tools: Mapping[str, str]
    bitstream_sha256: str


def sources_sha256(board: Board) -> str:
    """Return the SHA-256 of all source files for `board` in this edgewright, in hexadecimal.

    Comments and blank lines are left out, because they do not change the bitstream.
    """
    sha256 = hashlib.sha256()
    for source in board.sources:
        content = _without_comments(source)
        sha256.update(f"{source.name} {len(content)}\n".encode() + content)
    return sha256.hexdigest()


def _without_comments(source: Path) -> bytes:
    mark = "#" if source.suffix == ".lpf" else "//"
    lines = (line.partition(mark)[0].rstrip() for line in source.read_text(encoding="utf-8").splitlines())
    return "\n".join(line for line in lines if line).encode()


def read_report(report: Mapping[str, Any]) -> tuple[float, dict[str, ResourceUse]]:
    """Return the slowest clock's Fmax (MHz) and the use of `RESOURCES` from nextpnr's JSON report.

    Raises:
        OperationError: the report lacks one of them.
    """
    try:
        fmax = min(float(clock["achieved"]) for clock in report["fmax"].values())
        used = {name: report["utilization"][cell] for name, cell in RESOURCES.items()}
        return fmax, {name: ResourceUse(int(use["used"]), int(use["available"])) for name, use in used.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise OperationError(f"nextpnr-ecp5's report must have fmax and utilization, but it lacks {error}") from error


def read_record(name: str) -> Implementation | None:
    """Return the committed record of a shipped profile, or None if there is no record."""
    path = RECORDS / f"{name}.json"
    if not path.is_file():
        return None
    return wire.decode(path.read_bytes(), Implementation, what=path.name, error=OperationError)


def is_stale(record: Implementation, profile: NpuProfile) -> bool:
    """Return whether the RTL, the constraints or the profile changed after the build of the record."""
    board = BOARDS.get(profile.name)
    return board is None or (record.sources_sha256, record.profile_hash) != (sources_sha256(board), profile.hash.hex())


def status(profile: NpuProfile) -> str:
    """Return the profile's status and the figures of place and route, for `edgewright npu profiles`."""
    record = read_record(profile.name)
    if record is None:
        return profile.status
    text = f"{profile.status}; placed and routed: {figures(record)}"
    return f"{text} (stale: built from other sources)" if is_stale(record, profile) else text


def figures(record: Implementation) -> str:
    """Return clock and resources in one line."""
    resources = {name: record.resources[name] for name in RESOURCES if name in record.resources}
    uses = ", ".join(f"{use.used} of {use.available} {name.replace('_', ' ')}" for name, use in resources.items())
    return f"{record.fmax_mhz:.1f} MHz, {uses}"
