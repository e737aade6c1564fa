"""The fourth device: a machine with an NPU board on a serial port, whose cable is pulled while it scores.

The board is the RTL simulator on a pseudo-terminal (`edgewright npu simulate`). It starts first, because it is built while the
demo trains. On a machine without the tools for it, the demo prints that and continues with three devices.
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
from edgewright.demo.processes import Shell, stop, wait_until
from edgewright.demo.scoring import TIMEOUT, predicted_label
from edgewright.demo.show import heading, say
from edgewright.errors import OperationError

DEVICE = "camera-1"
SETTINGS_FILE = "agent.toml"
PROFILE = "npu-sim-8-large"
PORT = "npu0"
BOARD_S = 150.0
SCORED = 40
"""Images that this device scores, because a simulated board is slow; the other devices score all."""
IMAGES = 24
PULLED_AFTER = 10


@dataclass(frozen=True, slots=True)
class NpuBoard:
    """The simulated board of the demo."""

    process: subprocess.Popen[bytes]
    port: Path

    def write_settings(self, state: Path) -> None:
        """Write the port of the board into the agent's settings."""
        (state / SETTINGS_FILE).write_text(f'npu_device = "{self.port}"\n', encoding="utf-8")


def missing_component() -> str | None:
    """Return the name of a component that this machine needs to simulate a board, or None if it has all."""
    return missing_tool() or (None if find_spec("serial") else "pyserial")


def start_board(shell: Shell, processes: ExitStack) -> NpuBoard | None:
    """Start the simulated board; without its components, print which one is missing and return None."""
    heading("Start a simulated NPU board")
    missing = missing_component()
    if missing is not None:
        say(f"{missing} is not installed, so the demo continues without an NPU board; sh scripts/system-packages.sh installs it")
        return None
    port = shell.directory / PORT
    arguments = ("npu", "simulate", "--profile", PROFILE, "--link", str(port))
    return NpuBoard(processes.enter_context(shell.background("board", *arguments)), port)


def pull_the_cable(board: NpuBoard, address: str, samples: Path) -> dict[str, Any]:
    """Score on the board, end its process after a few requests, and return the counts of requests and responses.

    Raises:
        OperationError: a request was lost, or a result of the functional model differs from the board's.
    """
    heading("Pull the cable of the NPU board while it scores")
    with np.load(samples) as archive:
        images = archive["image"][:IMAGES]
    with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as pool:
        wait_until(lambda: _runs_on(pool, address).startswith("board"), what="the start of the board", timeout_s=BOARD_S)
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
        raise OperationError("the board and the functional model must give the same results, but they differ: report this defect")
    say(f"the cable was pulled after {PULLED_AFTER} of {len(images)} requests: {len(labels)} were answered, none was lost")
    return {"requests": len(images), "pulled_after": PULLED_AFTER, "answered": len(labels)}


def _stop_when(reached: threading.Event, process: subprocess.Popen[bytes]) -> None:
    reached.wait(BOARD_S)
    stop(process)


def _runs_on(pool: urllib3.PoolManager, address: str) -> str:
    response = pool.request("GET", f"{address}/stats")
    return str(response.json()["runs_on"].get("featurizer", ""))
