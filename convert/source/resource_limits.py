"""Run a worker process under limits of memory and time.

The limit applies to resident memory, which is polled for the process and its children. A limit on address space would not work:
TensorFlow reserves far more than it uses. If memory runs out between two polls, the kernel's OOM killer takes this process
first. At a limit the process and all its children are killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgewright.errors import OperationError
from edgewright.worker_process import WorkerEndedError, describe_end, read_answer
from hardware_profiles.memory import free_memory_bytes, prefer_for_oom_killer, process_tree, resident_bytes

GB = 1e9
_POLL_INTERVAL_S = 0.05
_SHARE_OF_FREE_MEMORY = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a command."""

    memory_bytes: int
    time_s: float = 3600.0

    @classmethod
    def of_this_machine(cls, max_memory_gb: float | None = None, max_time_s: float | None = None) -> Limits:
        """Return limits with defaults: three quarters of the memory that is free now, and one hour."""
        free_bytes = int(free_memory_bytes() * _SHARE_OF_FREE_MEMORY)
        memory_bytes = free_bytes if max_memory_gb is None else int(max_memory_gb * GB)
        return cls(memory_bytes=memory_bytes) if max_time_s is None else cls(memory_bytes=memory_bytes, time_s=max_time_s)


def run_limited(module: str, request: bytes, limits: Limits, source: Path, *, doing: str = "converting it") -> bytes:
    """Run `python -m module` to its end; it answers one request, as in `edgewright.worker_process`.

    Args:
        module: a module that calls `serve`.
        request: one line of JSON.
        limits: memory and time that it may use.
        source: the model, named in messages.
        doing: the activity, named in messages.

    Returns:
        The worker's result.

    Raises:
        EdgewrightError: the worker's own.
        OperationError: the worker crashed, or reached a limit and was killed.
    """
    with tempfile.TemporaryFile() as requests, tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as errors:
        requests.write(request + b"\n")
        requests.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=requests,
            stdout=answers,
            stderr=errors,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # sets of names are walked in the same order every time
            start_new_session=True,
        )
        try:
            prefer_for_oom_killer(process.pid)
            exceeded = _wait(process, limits, doing)
        finally:
            _kill(process)
        if exceeded:
            raise OperationError(f"{source}: {exceeded}")
        answers.seek(0)
        errors.seek(0)
        try:
            return read_answer(answers.readline())
        except WorkerEndedError as ended:
            end = describe_end(process.returncode, errors.read().decode("utf-8", "replace"))
            raise OperationError(f"{source}: {doing} failed: its process {end}") from ended


def _wait(process: subprocess.Popen[bytes], limits: Limits, doing: str) -> str:
    """Wait until the process ends or reaches a limit; return a description of the limit, or an empty string."""
    started = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_INTERVAL_S)
            return ""
        if _resident_bytes(process.pid) > limits.memory_bytes:
            return (
                f"{doing} must stay below {limits.memory_bytes / GB:.3g} GB of memory, but it needs more and was stopped: "
                "allow more with --max-memory, or use a larger machine"
            )
        if time.monotonic() - started > limits.time_s:
            return f"{doing} must end within {limits.time_s:g} s, but it did not and was stopped: allow more with --max-time"


def _resident_bytes(pid: int) -> int:
    return sum(resident_bytes(process.pid) for process in process_tree(pid))


def _kill(process: subprocess.Popen[bytes]) -> None:
    for descendant in process_tree(process.pid):
        with contextlib.suppress(psutil.Error):
            descendant.kill()
    process.wait()
