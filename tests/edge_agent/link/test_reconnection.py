"""A reconnection after the credentials have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

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


class EndedAtOnce(CountingTransport):
    """A transport whose sessions end as soon as they begin, as a broker ends the older of two sessions of one device."""

    async def lost(self) -> str:
        return "another client took over the session"


def test_the_pauses_grow_while_sessions_end_soon_after_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def record(attempt: int, _base_s: float, _cap_s: float) -> float:
        attempts.append(attempt)
        return 0.0

    monkeypatch.setattr("edge_agent.link.connection.full_jitter_s", record)
    transport = EndedAtOnce(unreachable=False)
    asyncio.run(with_connection(transport, lambda _connection: transport.wait_for(lambda: transport.opened == 5)))
    assert attempts[:4] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("lasted_s", "attempt", "is_settled"),
    [(29.0, 0, False), (31.0, 0, True), (31.0, 5, False), (63.0, 5, False), (64.0, 5, True), (300.0, 20, True)],
)
def test_a_session_is_settled_when_it_outlasts_the_pauses(lasted_s: float, attempt: int, is_settled: bool) -> None:
    connection = Connection([], lambda: None, base_s=2.0, cap_s=300.0, return_every_s=LONG_S)
    assert connection._is_settled(lasted_s, attempt) is is_settled


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
