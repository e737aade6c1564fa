"""One hub: its registry, connections, messages and methods, and the events that pass between them.

It knows neither MQTT packets nor HTTP: `cloud/iothub/mqtt` and `cloud/iothub/http` call it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloud.iothub.devices import authentication, identities
from cloud.iothub.devices.authentication import Credential
from cloud.iothub.devices.certificates import Certificates
from cloud.iothub.devices.registry import Registry
from cloud.iothub.links import Links
from cloud.iothub.methods import Methods
from cloud.iothub.queues import Queues, utc_now
from cloud.iothub.refusal import bad_argument
from cloud.iothub.store import Store
from edgewright.contracts.iothub import topics
from edgewright.errors import DeniedError

MAX_EVENT_BYTES = 256 << 10
"""The maximum size of a telemetry message with its properties, as in IoT Hub."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Limits of one hub."""

    max_connections: int = 10_000


class Hub:
    """The state and the operations of one hub; it belongs to one event loop."""

    def __init__(self, store: Store, hosts: Collection[str], *, limits: HubLimits | None = None) -> None:
        self.store = store
        self.hosts = frozenset(host.lower() for host in hosts)
        self.limits = limits or HubLimits()
        self.registry = Registry(store)
        self.links = Links(store)
        self.queues = Queues(store, self.links, utc_now)
        self.methods = Methods(self.links)
        self.certificates = Certificates(store)
        self.registry.on_desired = self._send_desired
        self.registry.on_removed = self._removed
        self.links.on_subscribed = self._subscribed

    def authenticate(self, name: str, credential: Credential) -> float | None:
        """Check a client's credential; return the UNIX time at which it expires, or None.

        Raises:
            DeniedError: the identity does not exist or is disabled, or the credential is not valid.
        """
        identity = self.registry.find(name)
        if identity is None:
            raise DeniedError(f"the hub has no device or module {name[:300]!r}")
        return authentication.check(
            identity, self.registry.identity(identity.device), credential, self.certificates.authorities()
        )

    def telemetry(self, name: str, properties: dict[str, str], body: bytes) -> None:
        """Store a telemetry message.

        Raises:
            RefusalError: it is longer than 256 KiB with its properties.
        """
        size = len(body) + sum(len(key) + len(value) for key, value in properties.items())
        if size > MAX_EVENT_BYTES:
            raise bad_argument(f"a message must have at most {MAX_EVENT_BYTES} bytes with its properties, not {size}")
        self.store.add_event(name, identities.timestamp(datetime.now(UTC)), properties, body)

    def state_of(self, name: str) -> dict[str, Any]:
        """Return what the service API shows of a connection."""
        return {
            "is_connected": self.links.is_connected(name),
            "last_active_at": self.links.last_active_at(name),
            "message_count": 0 if "/" in name else self.queues.count(name),
        }

    def _send_desired(self, name: str, patch: dict[str, Any], version: int) -> None:
        def send() -> None:
            link = self.links.subscriber(name, topics.DESIRED)
            if link is not None:
                link.send(topics.desired_patch(version), json.dumps(patch).encode(), lambda: None)

        self.store.after_commit(send)

    def _removed(self, name: str, reason: str) -> None:
        is_deleted = self.registry.find(name) is None
        self.links.drop(name, reason, forget=is_deleted)
        if is_deleted:
            self.queues.purge(name)

    def _subscribed(self, name: str, topic_filter: str) -> None:
        if topic_filter == topics.METHODS:
            self.methods.on_subscribed(name)
        elif topic_filter.endswith("/messages/devicebound/#"):
            self.queues.deliver(name)
