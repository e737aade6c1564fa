"""A board on a serial line as a machine, and the simulated board that stands in for one.

The simulated board is the same RTL with the same serial line, Verilated into a process with a pseudo-terminal; on this side
nothing can tell the two apart. Wire time and compute time are different things: the counters tell the second.
"""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from accel.npu.emulator import build_board
from accel.npu.hardware import Hardware
from accel.npu.link import ANSWER_S, DEFAULT_BAUD, Link
from accel.npu.profile import NpuProfile
from edgewright.errors import OperationError

SIMULATED_CYCLES_PER_BIT = 4
START_S = 30.0
STOP_S = 5.0


class Board(Hardware):
    """The NPU behind `device`; raises `EdgewrightError` when nobody answers there, or somebody else does."""

    def __init__(self, profile: NpuProfile, device: str, baud: int = DEFAULT_BAUD, answer_s: float = ANSWER_S) -> None:
        self.link = Link(device, baud, answer_s)
        try:
            super().__init__(profile, self.link)
        except BaseException:
            self.link.close()
            raise

    def close(self) -> None:
        """Give the line back."""
        self.link.close()


@contextmanager
def simulated_board(profile: NpuProfile) -> Iterator[str]:
    """Start a simulated board; give the device to open; stop it at the end."""
    program = build_board(profile, SIMULATED_CYCLES_PER_BIT)
    process = subprocess.Popen([program, str(SIMULATED_CYCLES_PER_BIT)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_S)
        device = process.stdout.readline().strip() if ready else ""
        if not device:
            raise OperationError(f"the simulated board must name its device within {START_S:.0f} s, but it did not")
        yield device
    finally:
        process.terminate()
        process.wait(STOP_S)
        if process.stdout is not None:
            process.stdout.close()
