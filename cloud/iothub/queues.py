"""Messages from the cloud to devices: stored until the device acknowledges them or they expire.

At most 50 wait per device, for one hour unless the sender says otherwise. A message that a device got ten times without an
acknowledgement is removed. Source: "Send cloud-to-device messages from an IoT hub" (learn.microsoft.com).
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cloud.iothub.links import Link, Links
from cloud.iothub.refusal import RefusalError, bad_argument
from cloud.iothub.store import Store
from edgewright.contracts.iothub import topics

MAX_WAITING = 50
MAX_DELIVERIES = 10
MAX_BYTES = 64 << 10
DEFAULT_VALID_S = 3600.0
MAX_VALID_S = 2 * 86400.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `properties` have the names of the topic, such as `$.mid` and `$.cid` for those of the system."""

    id: str
    position: int
    properties: dict[str, str]
    expires_at: float
    body: bytes = field(repr=False)
    deliveries: int = 0

    def head(self) -> dict[str, Any]:
        """Return everything but the body for the store."""
        return {
            "id": self.id,
            "position": self.position,
            "properties": self.properties,
            "expires_at": self.expires_at,
            "deliveries": self.deliveries,
        }


class Queues:
    """The waiting messages of all devices."""

    def __init__(self, store: Store, links: Links, now: Callable[[], float]) -> None:
        self._store = store
        self._links = links
        self._now = now
        self._waiting: dict[str, dict[str, Message]] = {}
        self._in_flight: dict[str, tuple[Link, set[str]]] = {}
        self._positions = itertools.count(1)
        for device, head, body in store.messages():
            self._waiting.setdefault(device, {})[head["id"]] = Message(**head, body=body)
            self._positions = itertools.count(head["position"] + 1)

    def add(self, device: str, body: bytes, properties: Mapping[str, str], *, valid_s: float = DEFAULT_VALID_S) -> str:
        """Queue a message, send it if the device is connected, and return its id.

        Raises:
            RefusalError: the message is too long, its validity out of range, or the device's queue is full.
        """
        size = len(body) + sum(len(name) + len(value) for name, value in properties.items())
        if size > MAX_BYTES:
            raise RefusalError(
                413, "MessageTooLarge", f"a message must have at most {MAX_BYTES} bytes with its properties, not {size}"
            )
        if not 0 < valid_s <= MAX_VALID_S:
            raise bad_argument(f"a message must be valid for more than 0 and at most {MAX_VALID_S:g} s, not {valid_s:g}")
        self._expire(device)
        waiting = self._waiting.setdefault(device, {})
        if len(waiting) >= MAX_WAITING:
            raise RefusalError(
                403,
                "DeviceMaximumQueueDepthExceeded",
                f"{device} must have at most {MAX_WAITING} waiting messages: purge them or wait",
            )
        message_id = str(uuid.uuid4())
        system = {"$.to": f"/devices/{device}/messages/deviceBound", "$.mid": message_id}
        message = Message(message_id, next(self._positions), {**system, **properties}, self._now() + valid_s, body)
        self._keep(device, message)
        self.deliver(device)
        return message_id

    def count(self, device: str) -> int:
        """Return the number of waiting messages of a device."""
        self._expire(device)
        return len(self._waiting.get(device, ()))

    def purge(self, device: str) -> int:
        """Delete the waiting messages of a device and return their number."""
        waiting = self._waiting.pop(device, {})
        for message_id in waiting:
            self._store.delete_message(message_id)
        return len(waiting)

    def deliver(self, device: str) -> None:
        """Send the waiting messages of a device that its connection has not got yet."""
        link = self._links.subscriber(device, f"{topics.devicebound(device)}#")
        if link is None:
            return
        self._expire(device)
        known, sent = self._in_flight.get(device, (None, set()))
        if known is not link:
            sent = set()
            self._in_flight[device] = (link, sent)
        for message in list(self._waiting.get(device, {}).values()):
            if message.id not in sent:
                sent.add(message.id)
                self._send(device, link, message)

    def _send(self, device: str, link: Link, message: Message) -> None:
        if message.deliveries >= MAX_DELIVERIES:
            self._remove(device, message.id)
            return
        self._keep(device, replace(message, deliveries=message.deliveries + 1))
        topic = topics.devicebound(device) + topics.format_properties(message.properties)
        link.send(topic, message.body, lambda: self._remove(device, message.id))

    def _keep(self, device: str, message: Message) -> None:
        self._waiting.setdefault(device, {})[message.id] = message
        self._store.put_message(device, message.id, message.position, message.head(), message.body)

    def _remove(self, device: str, message_id: str) -> None:
        if self._waiting.get(device, {}).pop(message_id, None) is not None:
            self._store.delete_message(message_id)

    def _expire(self, device: str) -> None:
        now = self._now()
        for message in list(self._waiting.get(device, {}).values()):
            if message.expires_at <= now:
                self._remove(device, message.id)


def utc_now() -> float:
    """Return the UNIX time."""
    return datetime.now(UTC).timestamp()
