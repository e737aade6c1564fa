"""Measure the resident process of the agent: memory when idle, and the time until it is ready.

    python benchmarks/agent_footprint.py [--runs 5] [--json]

Each run starts `edgewright agent run` as a fresh process with a fresh state directory, enrolled at a separate cloud without a
model, and reads /proc/<pid>/smaps_rollup after the process has been connected and idle for a few seconds. Runners and workers
are other processes and not counted. Start time is from starting the command until it prints its scoring address.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import urllib3

from edgewright import __version__
from hardware_profiles.detect import read_machine

COMMAND = str(Path(sys.executable).with_name("edgewright"))
IDLE_S = 3.0
START_TIMEOUT_S = 60.0
KIB = 1024


@dataclass(frozen=True)
class Footprint:
    """One run."""

    start_s: float
    rss_mib: float
    pss_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder, a_cloud(Path(folder)) as cloud:
        runs = [measure(Path(folder) / f"device-{number}", f"device-{number}", cloud) for number in range(options.runs)]
    report = {"machine": machine(), "runs": [asdict(run) for run in runs], "median": medians(runs)}
    print(json.dumps(report, indent=2) if options.as_json else table(runs))


def measure(state: Path, name: str, cloud: Path) -> Footprint:
    """Enrol a device, start its agent, and read what it takes once it is connected."""
    subprocess.run(
        [COMMAND, "agent", "enrol", "--token", token(cloud), "--name", name, "--state", str(state)],
        check=True,
        capture_output=True,
        timeout=START_TIMEOUT_S,
    )
    started = time.perf_counter()
    agent = subprocess.Popen(
        [COMMAND, "agent", "run", "--state", str(state), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        start_s = time.perf_counter() - started
        wait_until_online(state)
        time.sleep(IDLE_S)
        rss_kib, pss_kib = memory_of(agent.pid)
    finally:
        agent.terminate()
        agent.wait(START_TIMEOUT_S)
    return Footprint(start_s, rss_kib / KIB, pss_kib / KIB)


def memory_of(pid: int) -> tuple[int, int]:
    """Return RSS and PSS in KiB, as the kernel sums them."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    figures = {words[0]: int(words[1]) for words in lines}
    return figures["Rss:"], figures["Pss:"]


def wait_until_online(state: Path) -> None:
    """Wait until the agent's status is connected."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not json.loads((state / "agent.json").read_text())["online"]:
        if time.monotonic() > deadline:
            raise SystemExit("the agent must connect to its cloud, but it did not within a minute")
        time.sleep(0.1)


@contextmanager
def a_cloud(folder: Path) -> Iterator[Path]:
    """Run a cloud; give its client context."""
    command = [COMMAND, "cloud", "up", "--state", str(folder / "cloud"), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        cloud = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        yield Path(cloud["client_file"])
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


def token(client_file: Path) -> str:
    """Ask the cloud for an enrolment token."""
    client = json.loads(client_file.read_text())
    secret = Path(client["token_file"]).read_text().strip()
    with urllib3.PoolManager(ca_certs=client["ca_file"]) as pool:
        answer = pool.request("POST", f"{client['url']}/v1/tokens", json={}, headers={"Authorization": f"Bearer {secret}"})
    return str(answer.json()["token"])


def machine() -> dict[str, object]:
    machine = read_machine()
    return {
        "cpu": machine.cpu_model,
        "cores": machine.cpu_cores,
        "load": os.getloadavg()[0],
        "memory_mib": psutil.virtual_memory().total >> 20,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "edgewright": __version__,
    }


def medians(runs: list[Footprint]) -> dict[str, float]:
    return {name: statistics.median(getattr(run, name) for run in runs) for name in ("start_s", "rss_mib", "pss_mib")}


def table(runs: list[Footprint]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in machine().items()), f"{'':10}{'median':>9}{'least':>9}{'most':>9}"]
    for name, middle in medians(runs).items():
        values = [getattr(run, name) for run in runs]
        lines.append(f"{name:10}{middle:9.2f}{min(values):9.2f}{max(values):9.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
