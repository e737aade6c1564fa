"""Run each measurement in a fresh process, without caches, threads or memory of the previous one, and with limits.

ask          start the benchmark's script again as a worker, send it a request, read its result
worker_main  the worker: limit the memory, do the work, write the result as one line of JSON
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from hardware_profiles.detect import read_machine

WORKER_FLAG = "--worker"
MIB = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """The result of a worker, or the reason of its failure."""

    values: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


def ask(script: str, request: dict[str, Any], *, time_limit_s: float, memory_limit_mib: int | None = None) -> Outcome:
    """Run `script` as a worker process."""
    # -P: the folder of the script must not come first, or benchmarks/convert.py would hide the package convert.
    command = [sys.executable, "-P", "-W", "ignore", script, WORKER_FLAG]
    message = json.dumps({"request": request, "memory_limit_mib": memory_limit_mib})
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        finished = subprocess.run(
            command, input=message, capture_output=True, text=True, timeout=time_limit_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return Outcome(failure=f"not done after {time_limit_s:.0f} s")
    if finished.returncode == 0 and finished.stdout.strip():
        return Outcome(json.loads(finished.stdout.splitlines()[-1]))
    return Outcome(failure=_reason(finished.returncode, finished.stderr, memory_limit_mib))


def worker_main(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Handle the request on standard input; prints of libraries go to standard error."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    message = json.load(sys.stdin)
    if message["memory_limit_mib"]:
        limit = message["memory_limit_mib"] * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    values = work(message["request"])
    with results:
        results.write(json.dumps(values) + "\n")
    os._exit(0)  # some runtimes take long to shut down, and one crashes


def memory_mib(field_name: str) -> float:
    """Return this process's memory: `VmRSS` now, `VmHWM` at its peak (getrusage inherits the parent's peak)."""
    match = re.search(rf"^{field_name}:\s*(\d+) kB", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert match is not None
    return int(match.group(1)) / 1024


def reset_peak() -> None:
    """Reset the peak to the current memory (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def machine_line(packages: tuple[str, ...]) -> str:
    """Return the machine and the package versions of a measurement."""
    machine = read_machine()
    versions = ", ".join(f"{name} {version}" for name in packages if (version := _version(name)))
    load = os.getloadavg()[0]
    memory_gib = machine.memory_mib / 1024
    return f"{machine.cpu_model}, {machine.cpu_cores} cores, {memory_gib:.0f} GiB, load {load:.1f}; {versions}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _reason(code: int, errors: str, memory_limit_mib: int | None) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if memory_limit_mib and ("MemoryError" in errors or "bad_alloc" in errors or code < 0):
        return f"stopped at the cap of {memory_limit_mib} MiB"
    if code < 0:
        return f"killed by signal {-code}"
    return lines[-1][:100] if lines else f"ended with {code}"
