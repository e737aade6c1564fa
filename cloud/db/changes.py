"""Wait for a change counter; used by long-polls, the MQTT publisher and the rollout engine.

A change in this process wakes its waiters at once. A change by another process on the same database is noticed when the
counters are read again, twice a second, and only while a task waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from anyio import to_thread

from cloud.db.database import Counter, Database, read_counters

POLL_INTERVAL_S = 0.5


class Changes:
    """This process's copy of the counters; belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: dict[Counter, int] = {}
        self._raised: dict[Counter, asyncio.Event] = {}
        self._waiting = 0
        self.closed = False

    async def start(self) -> None:
        """Read the counters and start to follow the changes of this process."""
        loop = asyncio.get_running_loop()
        self._raised = {counter: asyncio.Event() for counter in Counter}
        self._database.listen(lambda raised: _notify(loop, self, raised))
        self.update(await to_thread.run_sync(self._read))

    def number(self, counter: Counter) -> int:
        """Return the last known value of a counter."""
        return self._numbers[counter]

    async def wait(self, counter: Counter, seen: int, timeout_s: float) -> int:
        """Return the counter's value as soon as it differs from `seen`, after `timeout_s`, or when the service stops."""
        with contextlib.suppress(TimeoutError):
            self._waiting += 1
            try:
                async with asyncio.timeout(timeout_s):
                    while self._numbers[counter] == seen and not self.closed:
                        await self._raised[counter].wait()
            finally:
                self._waiting -= 1
        return self._numbers[counter]

    def update(self, numbers: Mapping[Counter, int]) -> None:
        """Store higher values and wake their waiters."""
        for counter, number in numbers.items():
            if number > self._numbers.get(counter, -1):
                self._numbers[counter] = number
                self._wake(counter)

    def close(self) -> None:
        """Wake all waiters, because the service stops."""
        self.closed = True
        for counter in Counter:
            self._wake(counter)

    async def follow_other_processes(self) -> None:
        """Poll for changes by other processes until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            if self._waiting:
                self.update(await to_thread.run_sync(self._read))

    def _read(self) -> dict[Counter, int]:
        with self._database.reading() as connection:
            return read_counters(connection)

    def _wake(self, counter: Counter) -> None:
        self._raised[counter].set()
        self._raised[counter] = asyncio.Event()


def _notify(loop: asyncio.AbstractEventLoop, changes: Changes, raised: Mapping[Counter, int]) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop is closed
        loop.call_soon_threadsafe(changes.update, dict(raised))
