"""Run a command in a child process, so that a native crash of a runtime ends with one line and leaves nothing half-written.

    fork        the child runs the command: same terminal, same arguments, same standard streams
    wait        this process, which has imported nothing, waits; signals that only it receives are passed on
    exit code   the child's own; a signal that was passed on ends this process, too
    crash       one line with the signal and the step, then the temporary files of the child are removed

The child ends with this process, however this one ends. Only Linux has the system calls for this; on other systems a command
runs in the process that was started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from edgewright.steps import Recording, Step, record_in

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ORDINARY = (*_PASSED_ON, signal.SIGQUIT, signal.SIGPIPE)
"""Signals that end a process on request; every other one is a crash."""
_FROM_TERMINAL = 0x80
"""SI_KERNEL in siginfo(2): the terminal sends Ctrl-C to all processes in the foreground, so the child has it already."""
_SET_END_WITH_PARENT = 1
"""PR_SET_PDEATHSIG in prctl(2)."""
_STAGING = re.compile(r"/\.([^/]+?)(?:-old)?-[0-9a-f]{16}(?=[/;]|$)")
"""The name of a directory before it is moved to its place (`staging_beside`); a reader knows the place."""
_HELP = "repeat it with -v to see the events before the crash"
_HELP_MEMORY = "use fewer samples, or a machine with more memory"


def run_in_child(name: str) -> None:
    """Return in a child process, which runs the command; the calling process waits and exits as the child does.

    Args:
        name: the name of the command, for the message about a crash.
    """
    if not sys.platform.startswith("linux"):
        return
    recording, scratch, parent = Recording.create(), _scratch(), os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a process that inherits SIG_IGN cannot wait for its child
    child = os.fork()
    if child:
        status, peak_bytes = _wait(child)
        recording.read()
        _remove([*recording.paths, *([] if scratch is None else [str(scratch)])])
        _end_as(os.waitstatus_to_exitcode(status), name, recording.steps, peak_bytes)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _end_with(parent)
    if scratch is not None:
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    record_in(recording)


def crash_message(name: str, number: int, steps: Sequence[Step], peak_bytes: int) -> str:
    """Return the line about a command that a signal ended.

    Args:
        name: the name of the command.
        number: the signal.
        steps: the steps that ran, outermost first.
        peak_bytes: the largest memory of the process.
    """
    if number == signal.SIGKILL:
        cause = f"the system ended it by SIGKILL at {peak_bytes / 1e9:.1f} GB, as it does when memory runs out,"
        help = _HELP_MEMORY
    else:
        cause = f"it crashed in native code ({signal.Signals(number).name})"
        help = next((one.help for one in reversed(steps) if one.help), _HELP)
    during = _STAGING.sub(r"/\1", "; ".join(one.text for one in steps)) or "its start"
    return f"edgewright: {name} must finish, but {cause} during {during}: {help}"


def _scratch() -> Path | None:
    """Return a directory for the temporary files of the child, or None if there is no place for one: the child reports that."""
    try:
        return Path(tempfile.mkdtemp(prefix="edgewright-"))
    except OSError:
        return None


def _end_with(parent: int) -> None:
    """End this process as soon as `parent` ends, even if that is killed."""
    ctypes.CDLL(None).prctl(_SET_END_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _wait(child: int) -> tuple[int, int]:
    """Pass signals on until the child ends; return its status and its largest memory in bytes."""
    while True:
        received = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != _FROM_TERMINAL:
                os.kill(child, received.si_signo)
            continue
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return status, usage.ru_maxrss * 1024


def _remove(paths: Sequence[str]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)


def _end_as(exit_code: int, name: str, steps: Sequence[Step], peak_bytes: int) -> NoReturn:
    """Exit as the child did: with its code, by the signal that requested its end, or with a line about its crash."""
    if exit_code >= 0:
        sys.exit(exit_code)
    if -exit_code in _ORDINARY:
        signal.signal(-exit_code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-exit_code})
        os.kill(os.getpid(), -exit_code)
    sys.stderr.write(f"{crash_message(name, -exit_code, steps, peak_bytes)}\n")
    sys.exit(1)
