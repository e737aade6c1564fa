"""A connection that begins anew, because what it was opened with has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edge_agent.link.connection import Connection
from edgewright.errors import UnreachableError

AGES_S = 10_000.0


class Door:
    """A transport that says how often it was opened and closed."""

    name = "door"

    def __init__(self, *, shut: bool) -> None:
        self.shut = shut
        self.tried = self.opened = self.closed = 0
        self.changed = asyncio.Condition()

    async def open(self) -> None:
        await self._count("tried")
        if self.shut:
            raise UnreachableError("the door is shut")
        await self._count("opened")

    async def lost(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def report(self, body: bytes) -> None:
        """Take it."""

    async def telemetry(self, body: bytes) -> None:
        """Take it."""

    async def close(self) -> None:
        await self._count("closed")

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(holds)

    async def _count(self, what: str) -> None:
        async with self.changed:
            setattr(self, what, getattr(self, what) + 1)
            self.changed.notify_all()


async def with_connection(door: Door, story: Callable[[Connection], Awaitable[None]]) -> None:
    connection = Connection([door], lambda: None, base_s=AGES_S, cap_s=AGES_S, return_every_s=AGES_S)
    keeping = asyncio.create_task(connection.keep())
    try:
        await story(connection)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def test_it_is_closed_and_opened_once() -> None:
    async def live() -> None:
        door = Door(shut=False)

        async def story(connection: Connection) -> None:
            await door.wait_for(lambda: door.opened == 1)
            connection.begin_anew("the certificate was renewed")
            await door.wait_for(lambda: door.opened == 2)
            assert (door.closed, connection.is_online) == (1, True)
            await asyncio.sleep(0.05)
            assert door.opened == 2

        await with_connection(door, story)

    asyncio.run(live())


def test_a_pause_after_a_failure_is_cut_short() -> None:
    async def live() -> None:
        door = Door(shut=True)

        async def story(connection: Connection) -> None:
            await door.wait_for(lambda: door.tried == 1)
            door.shut = False
            connection.begin_anew("the certificate was renewed")
            await door.wait_for(lambda: door.opened == 1)

        await with_connection(door, story)

    asyncio.run(live())
