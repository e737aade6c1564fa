"""HTTPS long-polls, for networks that block MQTT (P31, P40, P50).

The requests are blocking and run in threads; closing the transport cancels them at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from edge_agent.link.https_client import HttpsRequest, Response
from edge_agent.link.transport import Receiver
from edgewright.errors import EdgewrightError, UnreachableError

POLL_S = 50
GRACE_S = 15.0
LONGEST_PAUSE_S = 60.0
NO_CONTENT = 204


class HttpsTransport:
    """Client of `/v1/device/…`."""

    name = "https"

    def __init__(self, url: str, context: Callable[[], ssl.SSLContext], receiver: Receiver, poll_s: int = POLL_S) -> None:
        self._url = url
        self._make_context = context
        self._context: ssl.SSLContext | None = None
        self._receiver = receiver
        self._poll_s = poll_s
        self._active: set[HttpsRequest] = set()

    async def open(self) -> None:
        """Poll once without waiting, which proves that the cloud accepts this device and gets its desired state."""
        self._context = self._make_context()
        await self._poll(wait_s=0)

    async def lost(self) -> str:
        """Poll until a poll fails; return the reason.

        The cloud answers with a rejected desired state again at once, so the pause after one doubles.
        """
        pause_s = 0.0
        while True:
            number = self._receiver.desired.highest_number
            try:
                received = await self._poll(wait_s=self._poll_s)
            except EdgewrightError as error:
                return str(error)
            rejected = received and self._receiver.desired.highest_number == number
            pause_s = min(LONGEST_PAUSE_S, max(1.0, pause_s * 2)) if rejected else 0.0
            await asyncio.sleep(pause_s)

    async def report(self, body: bytes) -> None:
        """POST the report."""
        await self._request("POST", "/v1/device/reported", body)

    async def telemetry(self, body: bytes) -> None:
        """POST the batch; the response is the acknowledgement."""
        self._receiver.acknowledgements.receive((await self._request("POST", "/v1/device/telemetry", body)).body)

    async def close(self) -> None:
        """Cancel all requests in progress."""
        for request in tuple(self._active):
            request.cancel()

    async def _poll(self, *, wait_s: int) -> bool:
        path = f"/v1/device/desired?have={self._receiver.desired.highest_number}&wait_s={wait_s}"
        response = await self._request("GET", path, timeout_s=wait_s + GRACE_S)
        if response.status == NO_CONTENT:
            return False
        self._receiver.desired.receive(response.body)
        return True

    async def _request(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = 30.0) -> Response:
        if self._context is None:
            raise UnreachableError("the transport must be open, but it is not")
        request = HttpsRequest(self._url, self._context)
        self._active.add(request)
        try:
            return await asyncio.to_thread(request.send, method, path, body, timeout_s=timeout_s)
        except asyncio.CancelledError:
            request.cancel()
            raise
        finally:
            self._active.discard(request)
