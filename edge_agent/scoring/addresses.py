"""Scoring addresses: the agent's, and one of each workload.

A workload's runner always listens on the workload's own port. The only workload also listens on the agent's address itself, so a
device with one model has no process between client and runner. From the second workload on, until the agent ends, the router
(`router.py`) has the agent's address. It starts before the first workload stops to accept there, so no request is lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.scoring.supervisor import NO_MODEL
from edgewright.errors import OperationError
from edgewright.serving.supervision.placeholder import Placeholder
from edgewright.serving.supervision.process import ServerProcess

_log = logging.getLogger(__name__)

MODULE = "edge_agent.scoring.router"
_READY = b"ready\n"  # edge_agent.scoring.router.READY
_START_TIMEOUT_S = 60.0
_DRAIN_TIMEOUT_S = 35.0
_RETRY_S = 0.5


class Addresses:
    """The listening sockets of the agent and its workloads, and the router."""

    def __init__(
        self,
        agent_socket: socket.socket,
        listen: Callable[[int], socket.socket],
        *,
        ports: Mapping[str, int],
        status_file: Path,
        changed: Callable[[dict[str, int], str], None],
        first: str = "",
    ) -> None:
        """Describe the addresses; nothing is opened yet.

        Args:
            agent_socket: listens at the agent's address.
            listen: opens a socket on a port, or on a free one if that is taken or 0.
            ports: of the previous start, by workload.
            status_file: of the agent, from which the router reads the ports.
            changed: called with the ports by workload, and the first workload.
            first: of the previous start.
        """
        self._agent_socket = agent_socket
        self._listen = listen
        self._ports = dict(ports)
        self._status_file = status_file
        self._changed = changed
        self._first = first
        self._sockets: dict[str, socket.socket] = {}
        self._placeholder = Placeholder(agent_socket, NO_MODEL)
        self._router: ServerProcess | None = None
        self._is_shared = asyncio.Event()

    async def open_placeholder(self) -> None:
        """Answer 503 at the agent's address until a workload listens there."""
        if not self._sockets and not self._is_shared.is_set():
            await self._placeholder.open(NO_MODEL)

    async def socket_of(self, workload: str) -> socket.socket:
        """Return the socket of a workload's own port."""
        if workload not in self._sockets:
            self._sockets[workload] = self._listen(self._ports.get(workload, 0))
            if self._first not in self._sockets and self._first not in self._ports:
                self._first = workload
            self._report()
        return self._sockets[workload]

    async def agent_socket_for(self, workload: str) -> socket.socket | None:
        """Return the agent's socket for the only workload; None if the router has it."""
        if self._is_shared.is_set() or list(self._sockets) != [workload]:
            return None
        await self._placeholder.close()
        return self._agent_socket

    async def release_socket(self, workload: str) -> None:
        """Release the socket of a workload that was removed."""
        self._sockets.pop(workload).close()
        self._ports.pop(workload, None)
        if self._first == workload:
            self._first = next(iter(self._sockets), "")
        self._report()
        await self.open_placeholder()

    def rename_workload(self, workload: str, name: str) -> None:
        """Give the socket of a workload to its new name."""
        self._sockets[name] = self._sockets.pop(workload)
        if self._first == workload:
            self._first = name
        self._report()

    async def share(self) -> bool:
        """Start the router, if it does not run yet; return True if it was started now.

        It is ready when this returns. One that does not start is tried again, because without it further workloads have no path.
        """
        if self._is_shared.is_set():
            return False
        while self._router is None:
            try:
                self._router = await self._start()
            except (OSError, OperationError) as error:
                _log.error("could not start router reason=%r", str(error))
                await asyncio.sleep(_RETRY_S)
        await self._placeholder.close()
        self._is_shared.set()
        return True

    async def watch(self) -> None:
        """Start the router again whenever it ends, forever; connections wait in the queue of the socket meanwhile."""
        await self._is_shared.wait()
        while True:
            if self._router is not None:
                _log.error("router ended reason=%r", await self._router.ended())
            try:
                self._router = await self._start()
            except (OSError, OperationError) as error:
                _log.error("could not start router reason=%r", str(error))
                self._router = None
                await asyncio.sleep(_RETRY_S)

    async def stop(self) -> None:
        """Drain the router."""
        if self._router is not None and self._router.is_alive:
            await self._router.drain(_DRAIN_TIMEOUT_S)
        await self._placeholder.close()

    async def _start(self) -> ServerProcess:
        command = [sys.executable, "-m", MODULE, str(self._agent_socket.fileno()), str(self._status_file)]
        router = await ServerProcess.start(command, self._agent_socket, on_line=lambda line: _log.debug("router line=%r", line))
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                if await router.read_line() == _READY:
                    _log.info("routing pid=%d", router.pid)
                    return router
        except TimeoutError:
            pass
        except BaseException:
            await router.kill()
            raise
        await router.kill()
        raise OperationError(f"the router must start, but it {await router.ended()}")

    def _report(self) -> None:
        self._changed({name: each.getsockname()[1] for name, each in self._sockets.items()}, self._first)
