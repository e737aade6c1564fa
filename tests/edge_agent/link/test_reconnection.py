"""A reconnection after the credentials have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edge_agent.link.connection import Connection
from edgewright.errors import UnreachableError

LONG_S = 10_000.0


class CountingTransport:
    """A transport that counts how often it was opened and closed."""

    name = "counting"

    def __init__(self, *, unreachable: bool) -> None:
        self.unreachable = unreachable
        self.tried = self.opened = self.closed = 0
        self.changed = asyncio.Condition()

    async def open(self) -> None:
        await self._count("tried")
        if self.unreachable:
            raise UnreachableError("the cloud does not answer")
        await self._count("opened")

    async def lost(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def report(self, body: bytes) -> None:
        """Accept the body."""

    async def telemetry(self, body: bytes) -> None:
        """Accept the body."""

    async def close(self) -> None:
        await self._count("closed")

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(holds)

    async def _count(self, what: str) -> None:
        async with self.changed:
            setattr(self, what, getattr(self, what) + 1)
            self.changed.notify_all()


async def with_connection(transport: CountingTransport, scenario: Callable[[Connection], Awaitable[None]]) -> None:
    connection = Connection([transport], lambda: None, base_s=LONG_S, cap_s=LONG_S, return_every_s=LONG_S)
    keeping = asyncio.create_task(connection.run_forever())
    try:
        await scenario(connection)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def test_the_transport_is_closed_and_opened_once() -> None:
    async def run() -> None:
        transport = CountingTransport(unreachable=False)

        async def scenario(connection: Connection) -> None:
            await transport.wait_for(lambda: transport.opened == 1)
            connection.reconnect("the certificate was renewed")
            await transport.wait_for(lambda: transport.opened == 2)
            assert (transport.closed, connection.is_online) == (1, True)
            await asyncio.sleep(0.05)
            assert transport.opened == 2

        await with_connection(transport, scenario)

    asyncio.run(run())


def test_a_reconnection_ends_the_pause_after_a_failure() -> None:
    async def run() -> None:
        transport = CountingTransport(unreachable=True)

        async def scenario(connection: Connection) -> None:
            await transport.wait_for(lambda: transport.tried == 1)
            transport.unreachable = False
            connection.reconnect("the certificate was renewed")
            await transport.wait_for(lambda: transport.opened == 1)

        await with_connection(transport, scenario)

    asyncio.run(run())
