"""Direct methods: call a connected device or module, and return its answer.

Source: "Understand and invoke direct methods from IoT Hub" (learn.microsoft.com).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloud.iothub.links import Link, Links
from cloud.iothub.refusal import RefusalError, bad_argument
from edgewright.contracts.iothub import topics

DEFAULT_RESPONSE_S = 30
RESPONSE_S = (5, 300)
MAX_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the name of the method, its JSON payload, and the times to wait for a connection and for the answer."""

    method: str
    payload: object
    connect_s: int = 0
    response_s: int = DEFAULT_RESPONSE_S

    @classmethod
    def from_json(cls, request: Mapping[str, Any]) -> Call:
        """Return the call of a request; raise `RefusalError` if it is invalid."""
        method = request.get("methodName")
        if not isinstance(method, str) or not 0 < len(method) <= 100:
            raise bad_argument("methodName must be a text of 1 to 100 characters")
        connect_s, response_s = (
            request.get("connectTimeoutInSeconds") or 0,
            request.get("responseTimeoutInSeconds") or DEFAULT_RESPONSE_S,
        )
        shortest, longest = RESPONSE_S
        if not isinstance(connect_s, int) or not 0 <= connect_s <= longest:
            raise bad_argument(f"connectTimeoutInSeconds must be 0 to {longest}, not {connect_s!r}")
        if not isinstance(response_s, int) or not shortest <= response_s <= longest:
            raise bad_argument(f"responseTimeoutInSeconds must be {shortest} to {longest}, not {response_s!r}")
        return cls(method, request.get("payload"), connect_s, response_s)


class Methods:
    """The calls that wait for an answer."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._numbers = itertools.count(1)
        self._waiting: dict[str, tuple[str, asyncio.Future[dict[str, Any]]]] = {}
        self._connected: dict[str, asyncio.Event] = {}

    async def invoke(self, name: str, call: Call) -> dict[str, Any]:
        """Return `{"status": …, "payload": …}` of a device or module.

        Raises:
            RefusalError: it is not connected, does not serve methods, or does not answer in time; or the payload is too long.
        """
        payload = json.dumps(call.payload).encode()
        if len(payload) > MAX_BYTES:
            raise bad_argument(f"the payload must have at most {MAX_BYTES} bytes, not {len(payload)}")
        link = await self._connected_link(name, call.connect_s)
        request = f"{next(self._numbers):x}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request] = (name, answer)
        try:
            link.send(topics.method_request(call.method, request), payload)
            return await asyncio.wait_for(answer, call.response_s)
        except TimeoutError as error:
            message = f"{name} must answer {call.method} within {call.response_s} s, but it did not"
            raise RefusalError(504, "GatewayTimeout", message) from error
        finally:
            del self._waiting[request]

    def answer(self, name: str, request: str, status: int, payload: bytes) -> None:
        """Complete a call; an answer that is late or of another identity has no effect, and one that is not JSON no payload."""
        caller, waiting = self._waiting.get(request, ("", None))
        if waiting is None or caller != name or waiting.done():
            return
        try:
            decoded = json.loads(payload or b"null")
        except ValueError:
            decoded = None
        waiting.set_result({"status": status, "payload": decoded})

    def on_subscribed(self, name: str) -> None:
        """Continue the calls that wait for a device."""
        if event := self._connected.get(name):
            event.set()

    async def _connected_link(self, name: str, connect_s: int) -> Link:
        link = self._links.subscriber(name, topics.METHODS)
        if link is None and connect_s:
            event = self._connected.setdefault(name, asyncio.Event())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), connect_s)
            self._connected.pop(name, None)
            link = self._links.subscriber(name, topics.METHODS)
        if link is None:
            raise RefusalError(404, "DeviceNotOnline", f"{name} must be connected and serve methods, but it does not")
        return link
