"""The CONNECT of a device or module, and the requests that it publishes: telemetry, its twin, answers of methods.

Topics of other devices and topics that the hub does not have end the connection, as in IoT Hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Protocol

from cloud.iothub.devices import twins
from cloud.iothub.devices.authentication import Credential
from cloud.iothub.hub import Hub
from cloud.iothub.links import Link
from cloud.iothub.mqtt.packets import Connect, PacketError, Publish
from cloud.iothub.refusal import RefusalError
from edgewright.contracts.iothub import topics
from edgewright.errors import DeniedError


class Session(Protocol):
    """The part of a connection that depends on the kind of client."""

    expires_at: float | None
    """The UNIX time at which the credential expires."""
    identity: str

    def allows(self, topic_filter: str) -> bool:
        """Return True if the client may subscribe to a filter."""

    def attach(self, link: Link, *, clean_session: bool) -> bool:
        """Start; return True if a stored session continues."""

    def resume(self) -> None:
        """Send what has waited for the client."""

    def detach(self, link: Link) -> None:
        """End."""

    def subscribe(self, topic_filter: str) -> None:
        """Add a subscription."""

    def unsubscribe(self, topic_filter: str) -> None:
        """Remove a subscription."""

    def publish(self, link: Link, packet: Publish, acknowledge: Callable[[], None]) -> None:
        """Handle a message and call `acknowledge` when it is stored; raise `PacketError` to end the connection."""


Open = Callable[[Connect, bytes | None], Session]


class DeviceSession:
    """The session of a device or module of the hub."""

    def __init__(self, hub: Hub, connect: Connect, certificate: bytes | None) -> None:
        """Check the CONNECT of a client; raise `DeniedError` if its user name or credential is not valid."""
        self._hub = hub
        self.identity = connect.client_id
        _check_username(connect, hub.hosts)
        self.expires_at = hub.authenticate(self.identity, Credential(connect.password or "", certificate, hub.hosts))
        if hub.links.count() >= hub.limits.max_connections and not hub.links.is_connected(self.identity):
            raise DeniedError(f"the hub must have at most {hub.limits.max_connections} connections")
        self._filters = topics.allowed_filters(self.identity)
        self._events = topics.events(self.identity)

    def allows(self, topic_filter: str) -> bool:
        """Return True for the filters of the own identity."""
        return topic_filter in self._filters

    def attach(self, link: Link, *, clean_session: bool) -> bool:
        """Take over the connection of the identity."""
        return self._hub.links.attach(link, clean_session=clean_session)

    def resume(self) -> None:
        """Send the messages that have waited."""
        self._hub.links.resume(self.identity)

    def detach(self, link: Link) -> None:
        """Release the connection of the identity."""
        self._hub.links.detach(link)

    def subscribe(self, topic_filter: str) -> None:
        """Add a subscription to the stored session."""
        self._hub.links.subscribe(self.identity, topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        """Remove a subscription from the stored session."""
        self._hub.links.unsubscribe(self.identity, topic_filter)

    def publish(self, link: Link, packet: Publish, acknowledge: Callable[[], None]) -> None:
        """Handle telemetry, a request on the own twin, or the answer of a method."""
        if packet.topic.startswith(self._events):
            self._telemetry(packet, acknowledge)
            return
        path, query = topics.split_query(packet.topic)
        request = query.get("$rid", "")
        if path == topics.TWIN_GET:
            self._send_twin(link, request)
        elif path == topics.TWIN_REPORTED:
            self._report(link, request, packet.payload)
        elif path.startswith(topics.METHOD_RESPONSE):
            status = path.removeprefix(topics.METHOD_RESPONSE).strip("/")
            if not status.lstrip("-").isdigit():
                raise PacketError(f"the status of a method must be a number, not {status[:40]!r}")
            self._hub.methods.answer(self.identity, request, int(status), packet.payload)
        else:
            raise PacketError(f"{self.identity} must not publish on {packet.topic[:200]!r}")
        acknowledge()

    def _telemetry(self, packet: Publish, acknowledge: Callable[[], None]) -> None:
        properties = topics.parse_properties(packet.topic.removeprefix(self._events))
        try:
            self._hub.telemetry(self.identity, properties, packet.payload)
        except RefusalError as error:
            raise PacketError(str(error)) from error
        self._hub.store.after_commit(acknowledge)

    def _send_twin(self, link: Link, request: str) -> None:
        twin = json.dumps(twins.to_device(self._hub.registry.twin(self.identity))).encode()
        self._hub.store.after_commit(lambda: link.send(topics.twin_response(200, request), twin))

    def _report(self, link: Link, request: str, payload: bytes) -> None:
        try:
            twin = self._hub.registry.report(self.identity, _json(payload))
        except RefusalError as error:
            link.send(topics.twin_response(error.status, request), json.dumps({"message": str(error)}).encode())
            return
        answer = topics.twin_response(204, request, twin.reported.version)
        self._hub.store.after_commit(lambda: link.send(answer, b""))


def _check_username(connect: Connect, hosts: Collection[str]) -> None:
    """Check the user name `HOST/CLIENT_ID/?api-version=…`; the slash before the question mark is optional."""
    host, _, rest = (connect.username or "").partition("/")
    identity, _, query = rest.partition("?")
    if host.lower() not in hosts:
        raise DeniedError(f"the user name must begin with {' or '.join(sorted(hosts))}, not {host[:200]!r}")
    if identity.rstrip("/") != connect.client_id:
        raise DeniedError(f"the user name must name the client id {connect.client_id[:200]!r}, not {identity[:200]!r}")
    if "api-version" not in topics.parse_properties(query):
        raise DeniedError("the user name must have an api-version, but it has none")


def _json(payload: bytes) -> object:
    try:
        decoded: object = json.loads(payload)
    except ValueError:
        return None
    return decoded
