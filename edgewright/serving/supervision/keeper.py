"""Keep one server process running for `edgewright serve`: replace it when a hanging or crashing model ends it.

    start      fork the server from this small process; an error of its start is raised here
    replace    when it ends unasked: the listening socket stays open meanwhile, so that new connections wait and are not refused
    end        on SIGTERM or SIGINT: the server drains; it also does when this process is killed

A fork and not a new program, so that the modules that both need are loaded once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgewright.errors import EdgewrightError, OperationError
from edgewright.worker_process import RESULT, describe_end, encoded_error, read_answer

Report = dict[str, Any]
Serve = Callable[[Callable[[Report], None]], None]

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_SETTLED_AFTER_S = 10.0


def keep_running(serve: Serve, announce: Callable[[Report], None]) -> None:
    """Run `serve` in a child process until a signal ends it; replace the child when it ends before.

    Args:
        serve: runs the server; it calls its argument with a report when requests are accepted, and returns after SIGTERM.
        announce: called once, in this process, with the first report.

    Raises:
        EdgewrightError: the first start failed; the error is that of the child.
    """
    keeper = _Keeper(serve)
    before = {number: signal.signal(number, keeper.end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        child = keeper.start()
        try:
            report = child.report()
        except EdgewrightError:
            _wait(child.pid)
            raise
        announce(report)
        keeper.replace_until_ended(child)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class _Child:
    """A server process and the pipe with its report."""

    pid: int
    reports: int
    started_s: float

    def report(self) -> Report:
        """Wait until the server accepts requests; raise the error of its start."""
        with os.fdopen(self.reports, "rb") as stream:
            line = stream.readline()
        if line:
            report: Report = json.loads(read_answer(line))
            return report
        raise OperationError("the server must start, but its process ended: the lines above say why")


class _Keeper:
    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._child: _Child | None = None
        self._is_ending = False

    def end(self, _number: int, _frame: Any) -> None:
        """Let the child drain, on a signal."""
        self._is_ending = True
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGTERM)

    def start(self) -> _Child:
        """Fork a child; the write end of `alive` stays open only in this process."""
        reports, report_to = os.pipe()
        alive, alive_here = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reports)
            os.close(alive_here)
            _run(self._serve, report_to, alive)
        os.close(report_to)
        os.close(alive)
        self._child = _Child(pid, reports, time.monotonic())
        return self._child

    def replace_until_ended(self, child: _Child) -> None:
        """Wait for the end of the child; start another one unless it drained."""
        pause_s = _FIRST_PAUSE_S
        while True:
            code = _wait(child.pid)
            if self._is_ending or code == 0:
                return
            if time.monotonic() - child.started_s > _SETTLED_AFTER_S:
                pause_s = _FIRST_PAUSE_S
            sys.stderr.write(f"the server process {describe_end(code, '')}; it is replaced\n")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            child = self.start()
            try:
                child.report()
            except EdgewrightError as error:
                sys.stderr.write(f"{error}\n")


def _wait(pid: int) -> int:
    """Wait for a process; return its exit code, negative for a signal."""
    with contextlib.suppress(ChildProcessError):  # it was waited for already
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 1


def _run(serve: Serve, report_to: int, alive: int) -> None:
    """Serve in the child, and end the process."""
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        serve(lambda report: _write(report_to, RESULT + json.dumps(report).encode()))
        code = 0
    except EdgewrightError as error:
        _write(report_to, encoded_error(error))
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - a defect: the child must not continue as the parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with_parent(alive: int) -> None:
    """Drain when the parent has ended, because nothing else would end this process."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _write(descriptor: int, line: bytes) -> None:
    os.write(descriptor, line + b"\n")
    os.close(descriptor)
