"""Figures of place and route for the boards: clock and resources, and whether the sources have changed since.

    python benchmarks/bitstreams.py            print the committed records (from `edgewright npu bitstream`)
    python benchmarks/bitstreams.py --build    build them again first: up to an hour and a half per board

Place and route only; these builds have not been tried on a board.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from accel.npu.hardware.bitstream import BuildRequest, build_bitstream
from accel.npu.hardware.boards import BOARDS
from accel.npu.hardware.implementation import RECORDS, RESOURCES, Implementation, is_stale, read_record
from accel.npu.profile import find_profile
from accel.npu.registers import DEFAULT_BAUD
from edgewright.command_line import print_table
from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", action="store_true", help="place and route again; writes the records and the bitstreams")
    if parser.parse_args().build:
        for board in BOARDS.values():
            with tempfile.TemporaryDirectory(prefix="edgewright-bench-") as folder:
                record = build_bitstream(BuildRequest(find_profile(board.name), board, DEFAULT_BAUD), Path(folder))
            write_atomically(RECORDS / f"{board.name}.json", wire.encode_readable(record))
    headings = ("profile", "PLL MHz", "Fmax MHz", *(name.replace("_", " ") for name in RESOURCES), "sources")
    print_table(headings, [row(name, read_record(name)) for name in BOARDS])


def row(name: str, record: Implementation | None) -> tuple[object, ...]:
    if record is None:
        return (name, *(None for _ in RESOURCES), None, None, "not placed and routed")
    uses = (f"{use.used}/{use.available}" for use in (record.resources[resource] for resource in RESOURCES))
    sources = "changed since" if is_stale(record, find_profile(name)) else "unchanged"
    return (name, record.clock_mhz, record.fmax_mhz, *uses, sources)


if __name__ == "__main__":
    main()
