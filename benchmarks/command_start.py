"""Measure the start-up time of commands: `edgewright --help`, and the groups for devices and operators.

    .venv/bin/python benchmarks/command_start.py [--runs 15]

Each run is a fresh interpreter. The results are the median and the spread of wall time, and the median of processor time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from benchmarks.measuring.fresh_process import machine_line
from edgewright.command_line import print_table

COMMANDS = (["--help"], ["--version"], ["agent", "--help"], ["devices", "--help"], ["packages", "--help"], ["convert", "--help"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs: int = parser.parse_args().runs
    print(machine_line(("click", "numpy", "urllib3")))
    print_table(
        ["command", "runs", "median ms", "least ms", "most ms", "processor ms"],
        [["edgewright " + " ".join(command), runs, *measure(command, runs)] for command in COMMANDS],
    )


def measure(command: list[str], runs: int) -> list[str]:
    """Return median, minimum and maximum wall time and median processor time, in ms."""
    wall_ms, processor_ms = [], []
    for _ in range(runs):
        before, started = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-m", "edgewright", *command], check=True, capture_output=True)
        wall_ms.append(1e3 * (time.perf_counter() - started))
        after = os.times()
        spent_s = after.children_user + after.children_system - before.children_user - before.children_system
        processor_ms.append(1e3 * spent_s)
    return [f"{value:.0f}" for value in (statistics.median(wall_ms), min(wall_ms), max(wall_ms), statistics.median(processor_ms))]


if __name__ == "__main__":
    main()
