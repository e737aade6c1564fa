"""The fourth device: a machine with an NPU board on a serial port, whose cable is pulled while it scores.

The board is the RTL in simulation behind a pseudo-terminal (`edgewright npu simulate`), started first, because the simulator is
built meanwhile. Where the tools for that are missing, the demo says so and goes on with three devices.
"""

from __future__ import annotations

import subprocess
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from accel.npu.hardware.verilate import missing_tool
from edge_agent.settings import SETTINGS_FILE
from edgewright.demo.processes import Shell, stop, wait_until
from edgewright.demo.scoring import TIMEOUT, predicted_label
from edgewright.demo.show import heading, say
from edgewright.errors import OperationError

DEVICE = "camera-1"
PROFILE = "npu-sim-8-large"
PORT = "npu0"
BOARD_S = 150.0
SCORED = 40
"""Images that this device scores where the others score all: a simulated board takes its time."""
IMAGES = 24
PULLED_AFTER = 10


@dataclass(frozen=True, slots=True)
class NpuBoard:
    """The simulated board of the demo."""

    process: subprocess.Popen[bytes]
    port: Path

    def write_settings(self, state: Path) -> None:
        """Tell the agent of this device where its board is."""
        (state / SETTINGS_FILE).write_text(f'npu_device = "{self.port}"\n', encoding="utf-8")


def missing_component() -> str | None:
    """Return what this machine lacks to simulate a board, or None."""
    return missing_tool() or (None if find_spec("serial") else "pyserial")


def start_board(shell: Shell, processes: ExitStack, *, wanted: bool = True) -> NpuBoard | None:
    """Start the simulated board, or say in one line why there is none."""
    if not wanted:
        return None
    heading("Start a simulated NPU board")
    missing = missing_component()
    if missing is not None:
        say(f"{missing} is not installed, so the demo goes on without an NPU board; sh scripts/system-packages.sh installs it")
        return None
    port = shell.directory / PORT
    arguments = ("npu", "simulate", "--profile", PROFILE, "--link", str(port))
    return NpuBoard(processes.enter_context(shell.background("board", *arguments)), port)


def pull_the_cable(board: NpuBoard, address: str, samples: Path) -> dict[str, Any]:
    """Score on the board, end it in the middle, and count the answers; raise `OperationError` when one was lost or differs."""
    heading("Pull the cable of the NPU board while it scores")
    with np.load(samples) as archive:
        images = archive["image"][:IMAGES]
    with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as pool:
        wait_until(lambda: _runs_on(pool, address).startswith("board"), what="the board taking its program", timeout_s=BOARD_S)
        say(f"{DEVICE} runs on: {_runs_on(pool, address)}")
        labels: list[int] = []
        reached = threading.Event()
        puller = threading.Thread(target=_stop_when, args=(reached, board.process))
        puller.start()
        for image in images:
            labels.append(predicted_label(pool, address, image))
            if len(labels) == PULLED_AFTER:
                reached.set()
        puller.join()
        again = [predicted_label(pool, address, image) for image in images]
        say(f"{DEVICE} runs on: {_runs_on(pool, address)}")
    if again != labels:
        raise OperationError("the board and the functional model must give the same answers, but they differ: this is a bug")
    say(f"the cable was pulled after {PULLED_AFTER} of {len(images)} requests: {len(labels)} were answered, none was lost")
    return {"requests": len(images), "pulled_after": PULLED_AFTER, "answered": len(labels)}


def _stop_when(reached: threading.Event, process: subprocess.Popen[bytes]) -> None:
    reached.wait(BOARD_S)
    stop(process)


def _runs_on(pool: urllib3.PoolManager, address: str) -> str:
    response = pool.request("GET", f"{address}/stats")
    return str(response.json()["runs_on"].get("featurizer", ""))
