"""Keep the device connected over the best transport that answers, and return to a better one later (P61).

Full jitter spreads the attempts, so that a fleet does not reconnect all at once after an outage.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from edge_agent.backoff import full_jitter_s, longest_pause_s
from edge_agent.link.transport import Transport
from edgewright.errors import EdgewrightError, UnreachableError

_log = logging.getLogger(__name__)

_SETTLED_AFTER_S = 30.0
"""A session that is lost earlier counts as a failed attempt: another agent may use the same identity, and a broker ends the
older of two sessions (MQTT 3.1.1, section 3.1.4), or the broker may end every session."""


class Connection:
    """The reconnect loop and the transport in use."""

    def __init__(
        self,
        transports: Sequence[Transport],
        changed: Callable[[], None],
        *,
        base_s: float,
        cap_s: float,
        return_every_s: float,
    ) -> None:
        self.problem = "not connected yet"
        """Reason why the device is offline, for display."""
        self._transports = transports
        self._changed = changed
        self._base_s = base_s
        self._cap_s = cap_s
        self._return_every_s = return_every_s
        self._current: Transport | None = None
        self._reconnect_requested = asyncio.Event()
        self._reconnect_reason = ""

    @property
    def is_online(self) -> bool:
        """True while a transport is connected."""
        return self._current is not None

    @property
    def transport(self) -> str | None:
        """The name of the transport in use."""
        return None if self._current is None else self._current.name

    def reconnect(self, reason: str) -> None:
        """Close the connection, if there is one, and connect at once, because its credentials have changed."""
        self._reconnect_reason = reason
        self._reconnect_requested.set()

    async def run_forever(self) -> None:
        """Connect and reconnect forever."""
        attempt = 0
        current: Transport | None = None
        try:
            while True:
                current = current or await self._first_that_answers(self._transports)
                if current is None:
                    attempt = await self._pause(attempt)
                    continue
                connected_at = asyncio.get_running_loop().time()
                current, is_lost = await self._use(current)
                lasted_s = asyncio.get_running_loop().time() - connected_at
                attempt = await self._pause(attempt) if is_lost and not self._is_settled(lasted_s, attempt) else 0
        finally:
            for transport in self._transports:
                with suppress(EdgewrightError):
                    await transport.close()

    def _is_settled(self, lasted_s: float, attempt: int) -> bool:
        """Return True if a session lasted long enough to start over with short pauses.

        Two agents with one identity end each other's sessions after their pauses, so a session must outlast those.
        """
        return lasted_s >= max(_SETTLED_AFTER_S, longest_pause_s(attempt, self._base_s, self._cap_s))

    async def _pause(self, attempt: int) -> int:
        """Wait before the next attempt and return its number; `reconnect` ends the wait and resets the number."""
        try:
            async with asyncio.timeout(full_jitter_s(attempt, self._base_s, self._cap_s)):
                await self._reconnect_requested.wait()
        except TimeoutError:
            return attempt + 1
        self._reconnect_requested.clear()
        return 0

    async def report(self, body: bytes) -> None:
        """Deliver a report.

        Raises:
            UnreachableError: the device is offline, or the report was not received.
        """
        await self._connected().report(body)

    async def telemetry(self, body: bytes) -> None:
        """Deliver a batch of measurements.

        Raises:
            UnreachableError: the device is offline, or the batch was not received.
        """
        await self._connected().telemetry(body)

    def _connected(self) -> Transport:
        if self._current is None:
            raise UnreachableError(f"the device must be connected to the cloud, but it is not: {self.problem}")
        return self._current

    async def _use(self, current: Transport) -> tuple[Transport | None, bool]:
        """Use `current` until it ends; return the better one that answered, open, if any, and whether `current` was lost."""
        self._set(current)
        is_lost = False
        requested = asyncio.create_task(self._reconnect_requested.wait())
        lost = asyncio.create_task(current.lost())
        better = asyncio.create_task(self._better_than(current))
        try:
            await asyncio.wait({lost, better, requested}, return_when=asyncio.FIRST_COMPLETED)
            if better.done():
                successor: Transport | None = better.result()
            elif requested.done():
                self._reconnect_requested.clear()
                self.problem, successor = self._reconnect_reason, None
                _log.info("reconnecting transport=%s reason=%r", current.name, self.problem)
                self._set(None)
            else:
                self.problem, successor, is_lost = lost.result(), None, True
                _log.warning("lost transport=%s reason=%r", current.name, self.problem)
                self._set(None)
        finally:
            for task in (lost, better, requested):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await better
        await current.close()
        return successor, is_lost

    async def _better_than(self, current: Transport) -> Transport:
        """Try the transports that are preferred to `current` from time to time; return the first that answers, open."""
        preferred = self._transports[: list(self._transports).index(current)]
        while True:
            await asyncio.sleep(self._return_every_s * random.uniform(0.75, 1.25))  # noqa: S311  spreads load
            transport = await self._first_that_answers(preferred)
            if transport is not None:
                return transport

    async def _first_that_answers(self, transports: Sequence[Transport]) -> Transport | None:
        for transport in transports:
            try:
                await transport.open()
            except (EdgewrightError, OSError) as error:  # OSError: an unreadable certificate must not stop scoring
                _log.info("could not connect transport=%s reason=%r", transport.name, str(error))
                if self.problem != str(error):
                    self.problem = str(error)
                    self._changed()
            else:
                return transport
        return None

    def _set(self, current: Transport | None) -> None:
        self._current = current
        if current is not None:
            _log.info("connected transport=%s", current.name)
        self._changed()
