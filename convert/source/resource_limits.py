"""Run a framework's work in a process of its own that can neither eat the machine nor run for ever.

The address space is no measure of a framework's need (TensorFlow reserves far more than it touches), so the resident memory of
the process and its children is watched instead, and the kernel is told to take this process first if memory runs out between two
looks. At the limit everything it started is killed.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgewright.errors import ModelError, OperationError, last_line

GB = 1e9
_LOOK_EVERY_S = 0.05
_FIRST_TO_GO = "1000"
_SHARE_OF_FREE_MEMORY = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a command may use."""

    memory_bytes: int
    time_s: float = 3600.0

    @classmethod
    def of_this_machine(cls, max_memory_gb: float | None = None, max_time_s: float | None = None) -> Limits:
        """Return the limits that the user asked for; otherwise three quarters of the memory that is free now, and an hour."""
        free_bytes = int(psutil.virtual_memory().available * _SHARE_OF_FREE_MEMORY)
        memory_bytes = free_bytes if max_memory_gb is None else int(max_memory_gb * GB)
        return cls(memory_bytes=memory_bytes) if max_time_s is None else cls(memory_bytes=memory_bytes, time_s=max_time_s)


def run_limited(command: Sequence[str], limits: Limits, source: Path, *, doing: str = "converting it") -> None:
    """Run `command`, which is `doing` something with `source`, to its end; its last line of error output tells why it failed.

    Raises:
        ModelError: it ended with exit code 2: the input cannot be used.
        OperationError: it crashed, or reached a limit and was stopped.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        try:
            _sacrifice(process.pid)
            reached = _watch(process, limits, doing)
        finally:
            _kill(process)
        if reached:
            raise OperationError(f"{source}: {reached}")
        if process.returncode == 0:
            return
        errors.seek(0)
        last = last_line(errors.read())
    if process.returncode == 2:
        raise ModelError(last)
    raise OperationError(f"{source}: {doing} failed (exit code {process.returncode}): {last}")


def _watch(process: subprocess.Popen[bytes], limits: Limits, doing: str) -> str:
    """Wait for the end; return which limit was reached, or nothing."""
    started = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_EVERY_S)
            return ""
        if resident_bytes(process.pid) > limits.memory_bytes:
            return (
                f"{doing} must stay below {limits.memory_bytes / GB:.3g} GB of memory, but it needs more and was stopped: "
                "allow more with --max-memory, or use a larger machine"
            )
        if time.monotonic() - started > limits.time_s:
            return f"{doing} must end within {limits.time_s:g} s, but it did not and was stopped: allow more with --max-time"


def resident_bytes(pid: int) -> int:
    """Return the memory that a process and all it started have touched."""
    total = 0
    for one in _family(pid):
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
    return total


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _sacrifice(pid: int) -> None:
    """Ask the kernel to end this process before any other; where that cannot be asked, watching must do."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(_FIRST_TO_GO, "ascii")


def _kill(process: subprocess.Popen[bytes]) -> None:
    for one in _family(process.pid):
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.wait()
