"""Worker processes: one JSON request in, one result or error out, standard output guarded, within a time limit.

    worker side    serve(handle)            read a request from standard input, write the handler's result or error
    parent side    WorkerProcess(module)    start `python -m module`, ask it, end it
                   read_answer(line)        what `WorkerProcess.ask` does with a line; for a parent that uses asyncio

A request is one line of JSON. An answer is one line: `result` and JSON, or `error` and the name and text of an
`EdgewrightError`, which the parent raises again. Requests and results are bytes here; callers encode and decode them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from edgewright import errors
from edgewright.errors import LONGEST_LINE, EdgewrightError, OperationError, last_line

RESULT, _ERROR = b"result ", b"error "


class WorkerEndedError(OperationError):
    """A worker that ended without a response."""


class WorkerTimeoutError(OperationError):
    """A worker that did not answer within its time limit; it was ended."""


def serve(handle: Callable[[bytes], bytes], *, once: bool = True) -> None:
    """Answer one request, or with `once=False` all requests until standard input ends or one fails.

    Standard output is moved away first, so that the prints of a library never mix with a response. After the one request,
    standard input is left open: a parent may use it to signal its own end.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    while request := _read_line():
        try:
            answer = RESULT + handle(request.rstrip(b"\n"))
        except EdgewrightError as error:
            answer, once = encoded_error(error), True
        _write_all(answers, answer + b"\n")
        if once:
            return


def exit_with_parent(*, gracefully: bool) -> None:
    """Exit when standard input closes: by SIGTERM (a server, which drains) or at once (a worker)."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        if gracefully:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            os._exit(1)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()


def _read_line() -> bytes:
    """Read one line and no byte beyond it; a buffered reader would take what follows."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return bytes(line)


def _write_all(handle: int, raw: bytes) -> None:
    with os.fdopen(os.dup(handle), "wb") as stream:
        stream.write(raw)


def encoded_error(error: EdgewrightError) -> bytes:
    """Return the line of an error, without its end; its class is the nearest in `edgewright.errors` that takes only a text."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__ and "__init__" not in vars(kind))
    return _ERROR + json.dumps([kind.__name__, str(error)]).encode()


def read_answer(line: bytes) -> bytes:
    """Return the result in a line of a worker's output; raise the error that it carries.

    Raises:
        EdgewrightError: the worker's own.
        WorkerEndedError: the line is not a response.
    """
    if line.startswith(RESULT):
        return line.removeprefix(RESULT).rstrip(b"\n")
    if not line.startswith(_ERROR):
        raise WorkerEndedError(f"the worker must write a response, but it wrote {line[:80]!r}")
    name, text = json.loads(line.removeprefix(_ERROR))
    kind: type[EdgewrightError] = getattr(errors, name)
    raise kind(text)


def describe_end(exit_code: int, stderr: str) -> str:
    """Describe the end of a process: its signal or exit code, and the last line of its standard error.

    A killed process cannot say why, so its last line, which may be a warning, is left out.
    """
    end = f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
    if exit_code == -signal.SIGKILL:
        return end
    return f"{end}: {last_line(stderr)[:LONGEST_LINE]}" if stderr.strip() else end


class WorkerProcess:
    """A running `python -m module` that answers requests; a context manager that ends it.

    The worker sees the same packages as this process.
    """

    def __init__(self, module: str, *, subject: str) -> None:
        """Start the worker; `subject` names its work in error messages."""
        self._subject = subject
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)},
        )

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the worker."""
        self.close()

    def close(self) -> None:
        """End the worker at once, whether it is busy or not."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def ask(self, request: bytes, *, limit_s: float) -> bytes:
        """Send a request, wait for its response and return the result.

        Raises:
            EdgewrightError: the worker's own.
            WorkerTimeoutError: no response came within `limit_s`.
            WorkerEndedError: the worker ended without a response.
        """
        self.send(request)
        return self.receive(limit_s=limit_s)

    def send(self, request: bytes) -> None:
        """Send a request without waiting; if the worker ends, reading its response raises the error."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def receive(self, *, limit_s: float) -> bytes:
        """Wait for the response to the earliest pending request and return the result; raise the same errors as `ask`."""
        assert self._process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(limit_s, self._end, [late])
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            return read_answer(line)
        exit_code = self._process.wait()
        if late.is_set():
            raise WorkerTimeoutError(f"{self._subject}: the worker process must answer within {limit_s:.0f} s, but it did not")
        self._stderr.seek(0)
        raise WorkerEndedError(f"{self._subject}: the worker process {describe_end(exit_code, self._stderr.read())}")

    def _end(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()
