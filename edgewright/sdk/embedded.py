"""The embedded cloud of a folder: started on first use, reached over plain HTTP on a loopback address.

    .edgewright/cloud/       its state directory (docs/reference/state-directories.md)
    .edgewright/cloud.log    its log since the last start
    .edgewright/start.lock   held while one process starts it, so that two never do

It outlives the process that started it, and stops after an hour without a request or with `edgewright cloud down`. A later use
starts it with the same port and token.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import urllib3

from edgewright.contracts.connection.client_context import CONTEXT_FILE, ClientContext
from edgewright.errors import BadInputError, EdgewrightError, OperationError, last_line

FOLDER = ".edgewright"
IDLE_STOP = "1h"
START_TIMEOUT_S = 60.0
ENTRY_SCRIPT = "AZUREML_ENTRY_SCRIPT"
"""Environment variable that is set in a process that serves an entry script; such a process starts no cloud."""


def is_in(home: Path) -> bool:
    """Return True if `home` holds an embedded cloud of this user; one of another user is never started."""
    try:
        return (home / "cloud").stat().st_uid == os.getuid()
    except OSError:
        return False


def ensure_running(home: Path) -> ClientContext:
    """Return the client context of the embedded cloud in `home`, a folder `.edgewright`; start the cloud if it is not running.

    Raises:
        BadInputError: the folder cannot be created.
        OperationError: the cloud does not start; the message has the last line of its log. Or this process serves a script.
    """
    running = _running(home)
    if running is not None:
        return running
    if os.environ.get(ENTRY_SCRIPT):
        raise OperationError(
            f"a scoring script must not start the embedded cloud {home}: name a cloud in EDGEWRIGHT_CLOUD, or give the model to "
            "the service"
        )
    _prepare(home)
    with _locked(home / "start.lock"):
        if _is_locked(home / "cloud" / "lock"):
            return _wait_until_ready(home)
        return _start(home)


def _running(home: Path) -> ClientContext | None:
    """Return the context if the cloud holds its lock and answers; the lock keeps the token from another program on the port."""
    state = home / "cloud"
    if not _is_locked(state / "lock"):
        return None
    try:
        context = ClientContext.read(state / CONTEXT_FILE)
        answer = urllib3.request("GET", f"{context.url}/healthz", timeout=5.0, retries=False)
    except (EdgewrightError, OSError, urllib3.exceptions.HTTPError):
        return None
    return context if answer.status == 200 else None


def _prepare(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        (home / ".gitignore").write_text("*\n", "ascii")
    except OSError as error:
        raise BadInputError(f"{home} must be a folder that you can write to: {error.strerror}; change the directory") from error


def _start(home: Path) -> ClientContext:
    state, log = home / "cloud", home / "cloud.log"
    command = [sys.executable, "-m", "edgewright", "cloud", "up", "--state", str(state), "--plain-http", "--port", "0"]
    command += ["--stop-after", IDLE_STOP, "--json"]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as announced:
        with os.fdopen(writing, "wb") as output, log.open("wb") as errors:
            # The shell ends at once, so that the cloud is no child of this process: it leaves no zombie and outlives a notebook.
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                check=True,
            )
        document = _announcement(announced)
    if not document:
        reason = last_line(log.read_text("utf-8", "replace"))
        raise OperationError(f"the embedded cloud in {home} must start, but it did not: {reason}; its log is {log}")
    return ClientContext.read(Path(json.loads(document)["client_file"]))


def _announcement(announced: Iterable[bytes]) -> bytes:
    """Read up to the closing brace of the announcement, because the cloud keeps its standard output open; empty if it ended."""
    lines: list[bytes] = []
    for line in announced:
        lines.append(line)
        if line == b"}\n":
            return b"".join(lines)
    return b""


def _wait_until_ready(home: Path) -> ClientContext:
    """Wait for a cloud that another process has started and not finished starting."""
    ends_at = monotonic() + START_TIMEOUT_S
    while (running := _running(home)) is None:
        if not _is_locked(home / "cloud" / "lock"):
            return _start(home)
        if monotonic() > ends_at:
            raise OperationError(
                f"the cloud in {home} must answer within {START_TIMEOUT_S:g} s, but it does not: "
                "stop it with 'edgewright cloud down'"
            )
        sleep(0.05)
    return running


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
