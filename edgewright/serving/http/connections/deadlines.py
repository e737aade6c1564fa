"""Time limits of a connection, which cost a request one assignment.

A deadline is moved with every request, and a timer of the event loop is not: it reads the deadline when it fires, and is set
again for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto


class Waiting(Enum):
    """The event that a connection waits for, and whose absence ends it."""

    FIRST_REQUEST = auto()
    NEXT_REQUEST = auto()
    HEADERS = auto()
    BODY = auto()
    CLIENT_READS = auto()
    """The client takes what the server has sent."""
    CLOSE = auto()
    """The client has read the last response."""
    NOTHING = auto()
    """The server works on a request, which has limits of its own."""


class Deadline:
    """The time limit of one connection."""

    __slots__ = ("_at_s", "_expired", "_fires_s", "_loop", "_timer", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[Waiting], None]) -> None:
        """Prepare a time limit; `expired` is called when it has passed."""
        self.waiting = Waiting.NOTHING
        self._loop = loop
        self._expired = expired
        self._at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._fires_s = 0.0

    def expect(self, waiting: Waiting, limit_s: float) -> None:
        """Set the deadline `limit_s` from now."""
        self.waiting = waiting
        self._at_s = self._loop.time() + limit_s
        if self._timer is not None and self._fires_s > self._at_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._fire_in(limit_s)

    def lift(self) -> None:
        """Let the connection wait without a limit, because the next step is the server's."""
        self.waiting = Waiting.NOTHING

    def cancel(self) -> None:
        """End the timer, with the connection."""
        self.waiting = Waiting.NOTHING
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire_in(self, seconds: float) -> None:
        self._fires_s = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self.waiting is Waiting.NOTHING:
            return
        remaining_s = self._at_s - self._loop.time()
        if remaining_s > 0:
            self._fire_in(remaining_s)
        else:
            self._expired(self.waiting)
