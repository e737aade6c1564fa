"""Stay connected: the best transport that answers, back to a better one when it answers again (P61).

Attempts are spaced by full jitter, so that a fleet does not come back all at once after an outage.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from edge_agent.backoff import full_jitter_s
from edge_agent.link.transport import Transport
from edgewright.errors import EdgewrightError, UnreachableError

_log = logging.getLogger(__name__)


class Connection:
    """The transport in use, if any."""

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
        """Why nothing is connected, for people."""
        self._transports = transports
        self._changed = changed
        self._base_s = base_s
        self._cap_s = cap_s
        self._return_every_s = return_every_s
        self._current: Transport | None = None
        self._anew = asyncio.Event()
        self._why_anew = ""

    @property
    def is_online(self) -> bool:
        """Tell whether the cloud was in reach when last heard of."""
        return self._current is not None

    @property
    def transport(self) -> str | None:
        """The name of the transport in use."""
        return None if self._current is None else self._current.name

    def begin_anew(self, why: str) -> None:
        """End the connection, if there is one, and connect at once: what it was opened with has changed."""
        self._why_anew = why
        self._anew.set()

    async def keep(self) -> None:
        """Connect, and connect again, for ever."""
        attempt = 0
        current: Transport | None = None
        try:
            while True:
                current = current or await self._first_that_answers(self._transports)
                if current is None:
                    attempt = await self._pause(attempt)
                    continue
                attempt = 0
                current = await self._use(current)
        finally:
            for transport in self._transports:
                with suppress(EdgewrightError):
                    await transport.close()

    async def _pause(self, attempt: int) -> int:
        """Wait before the next attempt, and return its number; there is nothing to wait for once something has changed."""
        try:
            async with asyncio.timeout(full_jitter_s(attempt, self._base_s, self._cap_s)):
                await self._anew.wait()
        except TimeoutError:
            return attempt + 1
        self._anew.clear()
        return 0

    async def report(self, body: bytes) -> None:
        """Deliver a report; raise `UnreachableError` when nothing is connected."""
        await self._connected().report(body)

    async def telemetry(self, body: bytes) -> None:
        """Deliver a batch of measurements; raise `UnreachableError` when nothing is connected."""
        await self._connected().telemetry(body)

    def _connected(self) -> Transport:
        if self._current is None:
            raise UnreachableError(f"the cloud is not in reach: {self.problem}")
        return self._current

    async def _use(self, current: Transport) -> Transport | None:
        """Stay with `current` until it is lost or begins anew (None), or a better one answers (that one, open)."""
        self._set(current)
        anew = asyncio.create_task(self._anew.wait())
        lost = asyncio.create_task(current.lost())
        better = asyncio.create_task(self._better_than(current))
        try:
            await asyncio.wait({lost, better, anew}, return_when=asyncio.FIRST_COMPLETED)
            if better.done():
                found: Transport | None = better.result()
            elif anew.done():
                self._anew.clear()
                self.problem, found = self._why_anew, None
                _log.info("connecting anew transport=%s reason=%r", current.name, self.problem)
                self._set(None)
            else:
                self.problem, found = lost.result(), None
                _log.warning("lost transport=%s reason=%r", current.name, self.problem)
                self._set(None)
        finally:
            for task in (lost, better, anew):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await better
        await current.close()
        return found

    async def _better_than(self, current: Transport) -> Transport:
        """Try, now and then, the transports that are preferred to `current`."""
        preferred = self._transports[: list(self._transports).index(current)]
        while True:
            await asyncio.sleep(self._return_every_s * random.uniform(0.75, 1.25))  # noqa: S311  spreads load
            found = await self._first_that_answers(preferred)
            if found is not None:
                return found

    async def _first_that_answers(self, transports: Sequence[Transport]) -> Transport | None:
        for transport in transports:
            try:
                await transport.open()
            except (EdgewrightError, OSError) as failed:  # OSError: a certificate that cannot be read stops no scoring
                _log.info("not connected transport=%s reason=%r", transport.name, str(failed))
                if self.problem != str(failed):
                    self.problem = str(failed)
                    self._changed()
            else:
                return transport
        return None

    def _set(self, current: Transport | None) -> None:
        self._current = current
        if current is not None:
            _log.info("connected transport=%s", current.name)
        self._changed()
