"""Run a slot in a container: `python -m edge_agent.drivers.container`, in the place of the runner that it starts inside.

To the agent this process is a runner like any other: it writes `loaded` and `ready` when the runner in the container does, serves
on the same inherited sockets, drains on SIGTERM, leaves the agent's address on SIGUSR1, and ends as the container ends.

    the slot          a read-only volume, so the image has no model and each version starts without another pull
    the connections   Unix sockets in a folder that both see: the container has no network at all unless the settings give it one
    the rest          no capabilities, no new privileges, a read-only file system, limits, and a log with rotation

The image needs the same version of this package, as one of `edgewright images build` for an environment has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import click

from edge_agent.drivers.process import OUTSIDE_EXIT
from edge_agent.settings import ContainerSettings
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.errors import BadInputError, EdgewrightError
from edgewright.serving.supervision.engine import (
    connect,
    image_of,
    remove_abandoned,
    reporting,
    restrictions,
    wait_for_end,
)
from edgewright.serving.supervision.relay import Relay
from edgewright.worker_process import exit_with_parent

SLOT_LABEL = "dev.edgewright.slot"
SLOT_FOLDER = "/slot"
SOCKET_FOLDER = "/run/edgewright"
VERSION_LABEL = "dev.edgewright.version"
_REPORTS = (b"loaded", b"ready")  # of edge_agent.scoring.runner
_SIGNALLED = 128
"""Exit codes above it are signals, as shells and engines have them."""


class NotTheModel(click.ClickException):
    """The end of a driver for a reason outside of the container."""

    exit_code = OUTSIDE_EXIT


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--container", "settings_text", required=True)
@click.option("--slot", type=click.Path(path_type=Path), required=True)
@click.option("--socket", "own", type=int, required=True)
@click.option("--agent-socket", "agent", type=int)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(*, settings_text: str, slot: Path, own: int, agent: int | None, options: tuple[str, ...]) -> None:
    """Score with the variant in SLOT in a container; further OPTIONS go to the runner in it. The agent starts this command."""
    exit_with_parent(gracefully=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # before the container is ready
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    settings = wire.decode(settings_text, ContainerSettings, what="the settings of containers")
    sockets = [socket.socket(fileno=each) for each in (own, agent) if each is not None]
    try:
        with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
            code = Container(settings, slot.resolve(), Path(folder), options).serve(sockets)
    except EdgewrightError as error:
        raise NotTheModel(str(error)) from error
    if _SIGNALLED < code < _SIGNALLED + signal.NSIG:
        _end_by(code - _SIGNALLED)
    sys.exit(code)


def _end_by(number: int) -> None:
    """End by a signal, as the runner in the container did: the agent tells a kill from a crash by it."""
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class Container:
    """One container, and the relays to it."""

    def __init__(self, settings: ContainerSettings, slot: Path, folder: Path, options: tuple[str, ...]) -> None:
        """Describe a container; nothing is started yet.

        Args:
            settings: of the device's owner.
            slot: folder of the variant.
            folder: for the Unix sockets; the container may write there.
            options: of the runner.
        """
        self._settings = settings
        self._slot = slot
        self._folder = folder
        self._options = options
        self._reports: asyncio.Queue[bytes | None] = asyncio.Queue()

    def serve(self, sockets: list[socket.socket]) -> int:
        """Serve on listening sockets until SIGTERM or until the container ends; return its exit code.

        Raises:
            UnreachableError: the engine does not answer.
            BadInputError: the image does not exist, or has another version.
            OperationError: the engine refuses the container.
        """
        names = ["own.sock", "agent.sock"][: len(sockets)]
        client = connect()
        with reporting(self._settings.image):
            image = image_of(client, self._settings.image, _log)
            self._check_version(image)
            remove_abandoned(client, SLOT_LABEL, lambda value: Path(value).parent == self._slot.parent)
            container = self._start(client, image, names)
        try:
            with reporting(self._settings.image):
                return asyncio.run(self._relay(container, [*zip(sockets, names, strict=True)]))
        finally:
            with contextlib.suppress(Exception):  # the engine may be away; the next start of the slot removes it
                container.remove(force=True, v=True)

    def _check_version(self, image: Any) -> None:
        found = (image.labels or {}).get(VERSION_LABEL)
        if found is not None and found != __version__:
            raise BadInputError(
                f"the image {self._settings.image} must have edgewright {__version__}, the agent's, not {found}: build it again"
            )

    def _start(self, client: Any, image: Any, names: list[str]) -> Any:
        settings = self._settings
        words = ["python3", "-m", "edge_agent.scoring.runner", "--slot", SLOT_FOLDER, *self._options]
        for option, name in zip(("--socket", "--agent-socket"), names, strict=False):
            words += [option, f"{SOCKET_FOLDER}/{name}"]
        container = client.containers.create(
            image.id,
            entrypoint=words[:1],
            command=words[1:],
            user=f"{os.getuid()}:{os.getgid()}",  # who owns the slot and the sockets
            volumes={
                str(self._slot): {"bind": SLOT_FOLDER, "mode": "ro"},
                str(self._folder): {"bind": SOCKET_FOLDER, "mode": "rw"},
            },
            network_mode=settings.network,
            devices=[f"{each}:{each}:rw" for each in settings.devices],
            group_add=list(settings.groups),
            working_dir="/",
            **restrictions(SLOT_LABEL, str(self._slot), cpus=settings.cpus, memory_bytes=settings.memory_bytes),
        )
        try:
            output = container.attach(stream=True, stdout=True, stderr=True, demux=True, logs=True)
            container.start()
        except BaseException:
            with contextlib.suppress(Exception):
                container.remove(force=True, v=True)
            raise
        self._output = output
        return container

    async def _relay(self, container: Any, sockets: list[tuple[socket.socket, str]]) -> int:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        threading.Thread(target=self._follow, args=[loop], daemon=True).start()
        waiting = asyncio.create_task(asyncio.to_thread(wait_for_end, container))
        ending = asyncio.create_task(stopping.wait())
        relays = await self._ready_relays(sockets, (waiting, ending))
        if len(relays) > 1:
            loop.add_signal_handler(signal.SIGUSR1, lambda: self._leave(container, relays))
        await asyncio.wait([waiting, ending], return_when=asyncio.FIRST_COMPLETED)
        for relay in relays:
            relay.close()
        if not waiting.done():
            await asyncio.to_thread(container.stop, timeout=round(self._settings.drain_timeout_s))
            for relay in relays:
                await relay.finished(timeout_s=2.0)
            return 0
        ending.cancel()
        return await self._end(container, waiting.result())

    async def _ready_relays(self, sockets: list[tuple[socket.socket, str]], ends: tuple[asyncio.Task[Any], ...]) -> list[Relay]:
        """Pass on the reports of the runner; return relays when it is ready, or none if it ended or should end first."""
        relays: list[Relay] = []
        while not relays:
            report = asyncio.create_task(self._reports.get())
            await asyncio.wait([report, *ends], return_when=asyncio.FIRST_COMPLETED)
            if not report.done() or report.result() is None:
                report.cancel()
                return []
            if report.result() == _REPORTS[-1]:
                relays = [Relay(each, self._folder / name) for each, name in sockets]
                for relay in relays:
                    await relay.start()
            os.write(1, (report.result() or b"") + b"\n")
        return relays

    def _leave(self, container: Any, relays: list[Relay]) -> None:
        """Stop to accept at the agent's address; the runner ends each connection there after its next response."""
        relays.pop().close()
        threading.Thread(target=container.kill, kwargs={"signal": "SIGUSR1"}, daemon=True).start()

    async def _end(self, container: Any, code: int) -> int:
        with contextlib.suppress(Exception):
            await asyncio.to_thread(container.reload)
            if container.attrs["State"].get("OOMKilled"):
                _log(f"the container needed more memory than its limit of {self._settings.memory_bytes} bytes")
                return OUTSIDE_EXIT
        return code

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass the error output on, and queue the reports."""
        pending = b""
        with contextlib.suppress(Exception):  # ends with the container
            for output, errors in self._output:
                if errors:
                    os.write(2, errors)
                pending += output or b""
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    if line in _REPORTS:
                        loop.call_soon_threadsafe(self._reports.put_nowait, line)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._reports.put_nowait, None)


def _log(text: str) -> None:
    os.write(2, f"{text}\n".encode())


if __name__ == "__main__":
    main()
