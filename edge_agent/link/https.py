"""HTTPS with long-polls, for networks that let nothing else pass (P31, P40, P50).

The exchanges are blocking and run in threads; closing the transport ends them at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from edge_agent.link.https_client import Answer, Exchange
from edge_agent.link.transport import Receiver
from edgewright.errors import EdgewrightError, UnreachableError

POLL_S = 50
GRACE_S = 15.0
LONGEST_PAUSE_S = 60.0
NO_CONTENT = 204


class HttpsTransport:
    """Talks to `/v1/device/…`."""

    name = "https"

    def __init__(self, url: str, context: Callable[[], ssl.SSLContext], receiver: Receiver, poll_s: int = POLL_S) -> None:
        self._url = url
        self._make_context = context
        self._context: ssl.SSLContext | None = None
        self._receiver = receiver
        self._poll_s = poll_s
        self._under_way: set[Exchange] = set()

    async def open(self) -> None:
        """Ask once without waiting: it shows that the cloud lets this device in, and brings what is wished."""
        self._context = self._make_context()
        await self._poll(wait_s=0)

    async def lost(self) -> str:
        """Poll until that fails; a wish that is not accepted would be answered again at once, so the pause after it grows."""
        pause_s = 0.0
        while True:
            have = self._receiver.have()
            try:
                came = await self._poll(wait_s=self._poll_s)
            except EdgewrightError as failed:
                return str(failed)
            pause_s = min(LONGEST_PAUSE_S, max(1.0, pause_s * 2)) if came and self._receiver.have() == have else 0.0
            await asyncio.sleep(pause_s)

    async def report(self, body: bytes) -> None:
        """POST the report."""
        await self._exchange("POST", "/v1/device/reported", body)

    async def telemetry(self, body: bytes) -> None:
        """POST the batch; the answer is the acknowledgement."""
        self._receiver.acknowledged((await self._exchange("POST", "/v1/device/telemetry", body)).body)

    async def close(self) -> None:
        """End every exchange that is under way."""
        for exchange in tuple(self._under_way):
            exchange.cancel()

    async def _poll(self, *, wait_s: int) -> bool:
        path = f"/v1/device/desired?have={self._receiver.have()}&wait_s={wait_s}"
        answer = await self._exchange("GET", path, timeout_s=wait_s + GRACE_S)
        if answer.status == NO_CONTENT:
            return False
        self._receiver.wished(answer.body)
        return True

    async def _exchange(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = 30.0) -> Answer:
        if self._context is None:
            raise UnreachableError("not connected to the cloud")
        exchange = Exchange(self._url, self._context)
        self._under_way.add(exchange)
        try:
            return await asyncio.to_thread(exchange.run, method, path, body, timeout_s=timeout_s)
        except asyncio.CancelledError:
            exchange.cancel()
            raise
        finally:
            self._under_way.discard(exchange)
