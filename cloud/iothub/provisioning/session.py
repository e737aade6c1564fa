"""The registration of a device over MQTT: it connects as a registration id, asks for an identity, and polls for the result.

Source: "Communicate with your DPS using the MQTT protocol" (learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable

from cloud.iothub.devices.authentication import Credential
from cloud.iothub.hub import Hub
from cloud.iothub.links import Link
from cloud.iothub.mqtt.packets import Connect, PacketError, Publish
from cloud.iothub.provisioning.enrolments import Enrolments
from cloud.iothub.refusal import RefusalError
from edgewright.contracts.iothub import topics
from edgewright.errors import DeniedError

_RETRY_AFTER_S = 1


def is_registration(connect: Connect) -> bool:
    """Return True if a client connects to the provisioning service: its user name is `SCOPE/registrations/ID/…`."""
    return (connect.username or "").partition("/")[2].startswith("registrations/")


class RegistrationSession:
    """The session of one device that registers."""

    expires_at: float | None = None

    def __init__(self, hub: Hub, enrolments: Enrolments, hostname: str, connect: Connect, certificate: bytes | None) -> None:
        """Check the CONNECT of a device; raise `DeniedError` if its user name is invalid or no enrolment admits it."""
        scope, _, rest = (connect.username or "").partition("/")
        registration = rest.split("/")[1] if rest.count("/") else ""
        if scope != enrolments.scope or registration != connect.client_id:
            raise DeniedError(f"the user name must begin with {enrolments.scope}/registrations/ and the client id")
        self._hub = hub
        self._enrolments = enrolments
        self._hostname = hostname
        self._certificate = certificate
        self._enrolment = enrolments.admit(registration, Credential(connect.password or "", certificate, ()))
        self._operation = ""
        self._answer: dict[str, object] = {}
        self.identity = registration

    def allows(self, topic_filter: str) -> bool:
        """Return True for the answers of the provisioning service."""
        return topic_filter == topics.DPS_RESPONSES

    def attach(self, link: Link, *, clean_session: bool) -> bool:
        """Start without a stored session."""
        return False

    def resume(self) -> None:
        """Nothing waits for a registration."""

    def detach(self, link: Link) -> None:
        """End."""

    def subscribe(self, topic_filter: str) -> None:
        """Answers are sent in any case."""

    def unsubscribe(self, topic_filter: str) -> None:
        """Answers are sent in any case."""

    def publish(self, link: Link, packet: Publish, acknowledge: Callable[[], None]) -> None:
        """Register, or answer a poll."""
        path, query = topics.split_query(packet.topic)
        request = query.get("$rid", "")
        if path == topics.DPS_REGISTER:
            self._register(link, request)
        elif path == topics.DPS_STATUS:
            self._poll(link, request, query.get("operationId", ""))
        else:
            raise PacketError(f"the provisioning service has no topic {packet.topic[:200]!r}")
        acknowledge()

    def _register(self, link: Link, request: str) -> None:
        self._operation = f"5.{secrets.token_hex(16)}"
        try:
            state = self._enrolments.assign(self._enrolment, self.identity, self._certificate, self._hostname)
        except RefusalError as error:
            failed = json.dumps({"errorCode": error.status * 1000, "message": str(error)}).encode()
            link.send(topics.provisioning_response(error.status, request), failed)
            return
        self._answer = {"operationId": self._operation, "status": "assigned", "registrationState": state}
        assigning = json.dumps({"operationId": self._operation, "status": "assigning"}).encode()
        answer = topics.provisioning_response(202, request, _RETRY_AFTER_S)
        self._hub.store.after_commit(lambda: link.send(answer, assigning))

    def _poll(self, link: Link, request: str, operation: str) -> None:
        if not operation or operation != self._operation:
            unknown = json.dumps({"errorCode": 404201, "message": "the operation is not known"}).encode()
            link.send(topics.provisioning_response(404, request), unknown)
            return
        link.send(topics.provisioning_response(200, request), json.dumps(self._answer).encode())
