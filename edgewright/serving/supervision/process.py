"""Run a scoring server as a process on an inherited socket: start it, wait for its reports, drain its requests and stop it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from edgewright.worker_process import describe_end

_log = logging.getLogger(__name__)
_KEPT_LINES = 20
_LONGEST_LINE_BYTES = 1 << 20
_PREFIXES = ("Error: ", "edgewright: ")


class ServerProcess:
    """A server process; its standard input stays open until this process ends it, and closes when this process is killed."""

    def __init__(self, process: Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._stderr_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        assert process.stderr is not None
        self._stderr_reader = asyncio.create_task(self._follow(process.stderr, on_line))

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *server_sockets: socket.socket,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] = lambda _line: None,
    ) -> Self:
        """Start `command` in a process group of its own; it inherits the sockets under the same descriptors.

        Args:
            command: the program and its arguments.
            server_sockets: listening sockets.
            directory: the working directory; None is that of this process.
            environment: all variables; None is those of this process.
            on_line: called with each line of the error output.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=[each.fileno() for each in server_sockets],
            start_new_session=True,
            cwd=directory,
            env=None if environment is None else dict(environment),
            limit=_LONGEST_LINE_BYTES,
        )
        return cls(process, on_line)

    async def read_line(self) -> bytes:
        """Return the next line of the output; empty when the process has ended."""
        assert self._process.stdout is not None
        with suppress(ValueError):  # a line over the limit
            return await self._process.stdout.readline()
        return b"\n"

    @property
    def last_line(self) -> str:
        """The last line of the error output, without the prefix of a command line."""
        line = self._stderr_lines[-1] if self._stderr_lines else "no message"
        for prefix in _PREFIXES:
            line = line.removeprefix(prefix)
        return line

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """Exit code, or the negative number of the signal that ended the process; None while it runs."""
        return self._process.returncode

    @property
    def crashed(self) -> bool:
        """True if the process ended by its own fault; False if it was killed from outside."""
        code = self._process.returncode
        return code is not None and -code not in (signal.SIGKILL, signal.SIGTERM)

    async def ended(self) -> str:
        """Wait for the exit of the process and return its cause."""
        code = await self._process.wait()
        with suppress(TimeoutError):  # a child of the process may hold the pipe open
            async with asyncio.timeout(1):
                await asyncio.shield(self._stderr_reader)
        return describe_end(code, self._stderr_lines[-1] if self._stderr_lines else "")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def drain(self, timeout_s: float) -> None:
        """Let the server finish its requests and exit; kill it after `timeout_s`."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended()
        except TimeoutError:
            _log.warning("killed server pid=%d reason=%r", self.pid, f"did not drain within {timeout_s:g} s")
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Kill the process and what is left of its process group, such as a script that hangs."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self.ended()
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def _follow(self, stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
        """Keep the last lines, which explain an exit; a full pipe would block the process."""
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line over the limit; the stream has dropped it
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self._stderr_lines.append(text)
            on_line(text)
