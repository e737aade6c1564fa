"""`edgewright npu bitstream`: build the bitstream of an NPU, and show the clock and the resources that the tools report."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from accel.npu.hardware.bitstream import BuildRequest, Watch, build_bitstream
from accel.npu.hardware.boards import find_board
from accel.npu.outputs import check_output
from accel.npu.profile import find_profile
from accel.npu.registers import DEFAULT_BAUD
from edgewright.command_line import common_options, print_json, print_table


@click.command()
@click.option("--profile", "profile_name", default="ulx3s-85f", show_default=True, help="NPU (`npu profiles`).")
@click.option("--board", "board_name", help="Board; default: the one with the profile's name.")
@click.option("--baud", type=click.IntRange(min=1), default=DEFAULT_BAUD, show_default=True, help="Speed of the serial line.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Random seed of the placement.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=".", help="Where to write the files.")
@common_options
def bitstream(profile_name: str, board_name: str | None, baud: int, seed: int, output: Path, as_json: bool) -> None:
    """Synthesise, place and route, and pack the NPU for its board."""
    profile = find_profile(profile_name)
    board = find_board(board_name or profile.name)
    check_output(output / f"{profile.name}.bit")
    with _watching() as watch, _sigterm_interrupts():
        record = build_bitstream(BuildRequest(profile, board, baud, seed), output, watch)
    if as_json:
        print_json(record)
        return
    rows = [
        (name.replace("_", " "), use.used, use.available, f"{use.used / use.available:.0%}")
        for name, use in record.resources.items()
    ]
    print_table(("resource", "used", "available", "share"), rows)
    click.echo(
        f"{record.part}: {record.fmax_mhz:g} MHz after place and route; the PLL generates {record.clock_mhz:g} MHz; {baud} baud\n"
        f"{output / profile.name}.bit (untested on hardware; see docs/how-to/bring-up-a-board.md)"
    )


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that the running tool ends too."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _watching() -> Iterator[Watch]:
    """Show the running stage on the error stream if it is a terminal."""

    def show(stage: str, took_s: float, line: str) -> None:
        minutes, seconds = divmod(int(took_s), 60)
        text = f"{stage} {minutes}:{seconds:02d}  {line.removeprefix('Info: ')}"
        click.echo(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", nl=False, err=True)

    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    try:
        yield show
    finally:
        click.echo("\r\033[K", nl=False, err=True)
