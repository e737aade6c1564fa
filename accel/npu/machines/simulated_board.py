"""The simulated board: the RTL with its serial line, Verilated into a process with a pseudo-terminal.

A host accesses it like a real board: it supports one speed at a time, can be unplugged (the process ends) and has a reset
button (SIGUSR1).
"""

from __future__ import annotations

import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accel.npu.hardware.verilate import build_board
from accel.npu.profile import NpuProfile
from accel.npu.registers import DEFAULT_BAUD
from edgewright.errors import BadInputError, OperationError

CYCLES_PER_BIT = 4
START_S = 30.0
STOP_S = 2.0


@contextmanager
def simulated_board(profile: NpuProfile, link: Path | None = None) -> Iterator[str]:
    """Start a simulated board, and stop it at the end of the block.

    Yields the path to open: the device, or `link`, a symbolic link to it.

    Raises:
        OperationError: a tool to build the board is missing, or the board does not start.
        BadInputError: `link` exists and is not a symbolic link.
    """
    with running_board(profile) as (device, _), _linked(device, link) as shown:
        yield shown


def serve_board(profile: NpuProfile, link: Path | None, announce: Callable[[str], None]) -> None:
    """Run a simulated board until an interrupt; call `announce` with the path to open, see `simulated_board`.

    Raises:
        OperationError: a tool to build the board is missing, or the board does not start or ends early.
        BadInputError: `link` exists and is not a symbolic link.
    """
    with running_board(profile) as (device, process), _linked(device, link) as shown:
        announce(shown)
        exit_code = process.wait()
    raise OperationError(f"the simulated board must run until it is interrupted, but it ended with {exit_code}; start it again")


@contextmanager
def _linked(device: str, link: Path | None) -> Iterator[str]:
    if link is None:
        yield device
        return
    if link.exists() and not link.is_symlink():
        raise BadInputError(f"{link} must not exist, or be a symbolic link, but it is another file; choose another path")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(device)
    try:
        yield str(link)
    finally:
        link.unlink(missing_ok=True)


@contextmanager
def running_board(profile: NpuProfile) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a simulated board, yield its device and process, and stop it at the end of the block."""
    program = build_board(profile, CYCLES_PER_BIT)
    settings = [str(CYCLES_PER_BIT), str(DEFAULT_BAUD), str(profile.clock_mhz)]
    process = subprocess.Popen([program, *settings], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_S)
        device = process.stdout.readline().strip() if ready else ""
        if not device:
            raise OperationError(f"the simulated board must name its device within {START_S:.0f} s, but it did not")
        yield device, process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:  # the process was suspended (SIGSTOP)
            process.kill()
            process.wait(STOP_S)
        if process.stdout is not None:
            process.stdout.close()
