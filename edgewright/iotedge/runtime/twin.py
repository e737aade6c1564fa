"""The twin of `$edgeAgent` over MQTT: desired properties as they change, and reports.

The caller connects again after a loss; each connection has a new token. Works with paho-mqtt 1.6 and 2.x, whose callbacks differ
in their arguments. Topics: "Communicate with an IoT hub using the MQTT protocol" (learn.microsoft.com).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Condition
from typing import Any

import paho.mqtt.client as paho

from edgewright.contracts.iothub import sas, topics
from edgewright.contracts.iothub.connection_strings import DeviceAccess
from edgewright.errors import DeniedError, EdgewrightError, OperationError, UnreachableError, one_line
from edgewright.iotedge.hub import API_VERSION, tls_context, without_port
from edgewright.iotedge.runtime.identities import ModuleIdentity

PORT = 8883
TOKEN_S = 3600
RENEW_AFTER_S = 0.75 * TOKEN_S
ANSWER_TIMEOUT_S = 30.0
_KEEPALIVE_S = 60
_REFUSED = (4, 5, 134, 135)
"""CONNACK codes of MQTT 3.1.1 and 5 for a wrong user name, password or right."""


class AgentTwin:
    """The connection of `$edgeAgent`; one thread of the library receives."""

    def __init__(self, access: DeviceAccess, ca_file: Path | None, on_change: Callable[[], None]) -> None:
        self._access = access
        self._context = tls_context(ca_file)
        self._on_change = on_change
        self._changed = Condition()
        self._client: paho.Client | None = None
        self._opened_at = 0.0
        self._connack: int | None = None
        self._lost = "not connected"
        self._requests = 0
        self._answers: dict[str, tuple[int, bytes]] = {}

    @property
    def is_connected(self) -> bool:
        """True while the connection is open and its token is not to be renewed."""
        return self._client is not None and not self._lost and time.monotonic() - self._opened_at < RENEW_AFTER_S

    def open(self, identity: ModuleIdentity) -> None:
        """Connect and subscribe.

        Raises:
            DeniedError: the hub does not accept the key.
            UnreachableError: the hub does not answer.
        """
        self.close()
        host, name = without_port(self._access.host), f"{self._access.device}/{identity.module}"
        resource = f"{host}/devices/{self._access.device}/modules/{identity.module}"
        token = sas.create(resource, identity.key, int(time.time()) + TOKEN_S)
        client = self._new_client(name)
        client.username_pw_set(f"{host}/{name}/?api-version={API_VERSION}", token)
        self._connack, self._lost, self._answers = None, "", {}
        server = self._access.gateway or host
        try:
            client.connect(server, PORT, _KEEPALIVE_S)
            client.loop_start()
            self._client = client
            self._await(lambda: self._connack is not None)
            if self._connack in _REFUSED:
                raise DeniedError(f"the hub {host} does not accept the key of {name}: check the connection string")
            if self._connack != 0:
                raise UnreachableError(f"the hub {host} refuses the connection of {name} with code {self._connack}")
            client.subscribe([(topics.TWIN_RESPONSES, 0), (topics.DESIRED, 0)])
        except (OSError, ValueError) as error:
            self.close()
            raise UnreachableError(f"the hub {server}:{PORT} does not answer ({one_line(error)})") from error
        except EdgewrightError:
            self.close()
            raise
        self._opened_at = time.monotonic()

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the desired and the reported properties; raise `UnreachableError` without an answer."""
        _, raw = self._request(topics.TWIN_GET, b"")
        try:
            twin = json.loads(raw)
            return twin["desired"], twin["reported"]
        except (ValueError, KeyError, TypeError) as error:
            raise OperationError("the hub must answer with a twin, but it does not") from error

    def report(self, patch: Mapping[str, Any]) -> None:
        """Change reported properties.

        Raises:
            UnreachableError: there is no answer.
            OperationError: the hub refuses the patch.
        """
        status, raw = self._request(topics.TWIN_REPORTED, json.dumps(patch).encode())
        if status >= 300:
            raise OperationError(f"the hub refuses the report with status {status}: {raw[:200].decode('utf-8', 'replace')}")

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _request(self, path: str, body: bytes) -> tuple[int, bytes]:
        client = self._client
        if client is None or self._lost:
            raise UnreachableError(f"the connection to the hub {self._access.host} must be open: {self._lost or 'not connected'}")
        self._requests += 1
        request = str(self._requests)
        client.publish(f"{path}?$rid={request}", body, qos=0)
        self._await(lambda: request in self._answers)
        return self._answers.pop(request)

    def _await(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or bool(self._lost), ANSWER_TIMEOUT_S)
        if not condition():
            reason = self._lost or f"no answer within {ANSWER_TIMEOUT_S:g} s"
            raise UnreachableError(f"the hub {self._access.host} must answer, but it does not: {reason}")

    def _new_client(self, name: str) -> paho.Client:
        version = getattr(paho, "CallbackAPIVersion", None)
        first = () if version is None else (version.VERSION2,)
        client = paho.Client(*first, client_id=name, protocol=paho.MQTTv311, reconnect_on_failure=False)
        client.tls_set_context(self._context)
        client.on_connect = lambda _c, _u, _f, code, *_: self._connected(code)
        client.on_disconnect = lambda own, *_: self._disconnected(own)
        client.on_message = lambda _c, _u, message: self._received(message.topic, message.payload)
        return client

    def _connected(self, code: Any) -> None:
        with self._changed:
            self._connack = int(getattr(code, "value", code))
            self._changed.notify_all()

    def _disconnected(self, client: Any) -> None:
        with self._changed:
            if client is self._client or self._client is None:
                self._lost = "the hub has closed the connection"
            self._changed.notify_all()
        self._on_change()

    def _received(self, topic: str, payload: bytes) -> None:
        path, query = topics.split_query(topic)
        if path.startswith(topics.TWIN_RESPONSES.rstrip("#")):
            status = path.rstrip("/").rpartition("/")[2]
            with self._changed:
                self._answers[query.get("$rid", "")] = (int(status) if status.isdigit() else 500, payload)
                self._changed.notify_all()
        else:
            self._on_change()
