"""What place and route says about the boards' NPUs: clock and resources, and whether the figures are of today's sources.

    python benchmarks/bitstreams.py            print the committed records (made by `edgewright npu bitstream`)
    python benchmarks/bitstreams.py --build    make them again first: up to an hour and a half per board

Place and route only; nobody has tried these builds on a board.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from accel.npu.hardware.bitstream import Order, build_bitstream
from accel.npu.hardware.boards import BOARDS
from accel.npu.hardware.implementation import RECORDS, RESOURCES, Implementation, is_stale, recorded
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
                record = build_bitstream(Order(find_profile(board.name), board, DEFAULT_BAUD), Path(folder))
            write_atomically(RECORDS / f"{board.name}.json", wire.encode_readable(record))
    columns = ("profile", "PLL MHz", "Fmax MHz", *(name.replace("_", " ") for name in RESOURCES), "sources")
    print_table(columns, [row(name, recorded(name)) for name in BOARDS])


def row(name: str, record: Implementation | None) -> tuple[object, ...]:
    if record is None:
        return (name, *(None for _ in RESOURCES), None, None, "not placed and routed")
    uses = (f"{use.used}/{use.available}" for use in (record.resources[resource] for resource in RESOURCES))
    sources = "older than today's" if is_stale(record, find_profile(name)) else "today's"
    return (name, record.clock_mhz, record.fmax_mhz, *uses, sources)


if __name__ == "__main__":
    main()
