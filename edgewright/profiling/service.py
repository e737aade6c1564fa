"""The service that is profiled: `edgewright serve` in a process tree under the limits of a size."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgewright.contracts import wire
from edgewright.errors import OperationError
from edgewright.profiling.limits import Limits, Method, Size, limited
from edgewright.profiling.load_messages import LoadRequest, LoadResult

START_TIMEOUT_S = 180.0
_POLL_S = 0.05
_STOP_TIMEOUT_S = 15.0
HOST = "127.0.0.1"


class NotReadyError(OperationError):
    """The service did not start under its limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """The script or model, and the options of `edgewright serve` that a size does not decide."""

    path: Path
    runs_in_workers: bool
    """A script or a model in worker processes: a size decides the workers; else the threads of the backend."""
    options: tuple[str, ...] = ()

    def command(self, processes: int, ready_file: Path) -> list[str]:
        """Return the command with that many workers or threads."""
        parallel = "--workers" if self.runs_in_workers else "--threads"
        words = [sys.executable, "-P", "-m", "edgewright", "serve", str(self.path), "--port", "0", parallel, str(processes)]
        return [*words, "--ready-file", str(ready_file), *self.options]


class RunningService:
    """A service that accepts requests."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, limits: Limits, folder: Path) -> None:
        self._process = process
        self._port = port
        self._limits = limits
        self._folder = folder

    def load(
        self, bodies: Sequence[bytes], rate: float, *, seconds: float, warm_up_s: float, seed: int
    ) -> tuple[LoadResult, int]:
        """Return what a load measured, and the largest memory of the service during it, in bytes.

        Raises:
            OperationError: the clients failed.
        """
        files = []
        for index, body in enumerate(bodies):
            path = self._folder / f"{index}.http"
            path.write_bytes(_http_request(body, HOST, self._port))
            files.append(str(path))
        request = LoadRequest(
            host=HOST, port=self._port, requests=tuple(files), rate=rate, seconds=seconds, warm_up_s=warm_up_s, seed=seed
        )
        request_file = self._folder / "load.json"
        request_file.write_bytes(wire.encode(request))
        with _watched(self._limits, self._process.pid) as largest:
            command = [sys.executable, "-P", "-m", "edgewright.profiling.load", str(request_file)]
            done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise OperationError(f"the clients must send the load, but they ended: {last}")
        return wire.decode(done.stdout, LoadResult, what="the result of a load"), largest()


@contextlib.contextmanager
def running(options: ServiceOptions, size: Size, processes: int, method: Method) -> Iterator[RunningService]:
    """Start a service under limits; it is ended with every process of it.

    Raises:
        NotReadyError: it ended, or was not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-profile-") as name, limited(size, method) as limits:
        folder = Path(name)
        ready_file, log_file = folder / "ready.json", folder / "service.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                options.command(processes, ready_file),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": str(processes)},
            )
        try:
            limits.apply(process.pid)
            port = _port(process, ready_file, log_file)
            limits.restrict()
            yield RunningService(process, port, limits, folder)
        finally:
            _end(process)


def _http_request(body: bytes, host: str, port: int) -> bytes:
    """Return the bytes of a scoring request."""
    head = f"POST /score HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("ascii") + body


def _port(process: subprocess.Popen[bytes], ready_file: Path, log_file: Path) -> int:
    ends_at_s = time.monotonic() + START_TIMEOUT_S
    while not ready_file.exists():
        if process.poll() is not None:
            last = log_file.read_text(errors="replace").strip().rpartition("\n")[2]
            raise NotReadyError(f"the service must start, but it ended: {last or f'exit code {process.returncode}'}")
        if time.monotonic() > ends_at_s:
            raise NotReadyError(f"the service must be ready within {START_TIMEOUT_S:g} s, but it is not")
        time.sleep(_POLL_S)
    port: int = json.loads(ready_file.read_bytes())["port"]
    return port


@contextlib.contextmanager
def _watched(limits: Limits, pid: int) -> Iterator[Callable[[], int]]:
    ended = threading.Event()
    largest = [0]

    def watch() -> None:
        while not ended.wait(_POLL_S * 2):
            largest[0] = max(largest[0], limits.memory_bytes(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: largest[0]
    finally:
        ended.set()
        thread.join()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a service: SIGTERM, then SIGKILL for what is left of its tree."""
    tree = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    _, alive = psutil.wait_procs(tree, timeout=2)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()
    psutil.wait_procs(alive, timeout=2)
