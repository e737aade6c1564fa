"""Wait for a counter to move: what long-polls, the MQTT publisher and the rollout engine sleep on.

A change made in this process wakes its waiters at once. A change made by another process on the same database is seen when
the counters are read again, twice a second, and only while somebody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from anyio import to_thread

from cloud.db.database import Counter, Database, read_counters

LOOK_EVERY_S = 0.5


class Changes:
    """The counters as this process knows them; belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: dict[Counter, int] = {}
        self._moved: dict[Counter, asyncio.Event] = {}
        self._waiting = 0
        self.closed = False

    async def start(self) -> None:
        """Read the counters and follow them from now on."""
        loop = asyncio.get_running_loop()
        self._moved = {counter: asyncio.Event() for counter in Counter}
        self._database.listen(lambda raised: _tell(loop, self, raised))
        self.learn(await to_thread.run_sync(self._read))

    def number(self, counter: Counter) -> int:
        """Return the last known number of a counter."""
        return self._numbers[counter]

    async def wait(self, counter: Counter, seen: int, timeout_s: float) -> int:
        """Return the counter's number as soon as it differs from `seen`, or after `timeout_s`, or when the service ends."""
        with contextlib.suppress(TimeoutError):
            self._waiting += 1
            try:
                async with asyncio.timeout(timeout_s):
                    while self._numbers[counter] == seen and not self.closed:
                        await self._moved[counter].wait()
            finally:
                self._waiting -= 1
        return self._numbers[counter]

    def learn(self, numbers: Mapping[Counter, int]) -> None:
        """Take over higher numbers and wake who waits for them."""
        for counter, number in numbers.items():
            if number > self._numbers.get(counter, -1):
                self._numbers[counter] = number
                self._wake(counter)

    def close(self) -> None:
        """Let every waiter go: the service ends."""
        self.closed = True
        for counter in Counter:
            self._wake(counter)

    async def follow_other_processes(self) -> None:
        """Look for changes that other processes made, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._waiting:
                self.learn(await to_thread.run_sync(self._read))

    def _read(self) -> dict[Counter, int]:
        with self._database.reading() as connection:
            return read_counters(connection)

    def _wake(self, counter: Counter) -> None:
        self._moved[counter].set()
        self._moved[counter] = asyncio.Event()


def _tell(loop: asyncio.AbstractEventLoop, changes: Changes, raised: Mapping[Counter, int]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and its waiters with it
        loop.call_soon_threadsafe(changes.learn, dict(raised))
