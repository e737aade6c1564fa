"""The registration of a device with the provisioning service (DPS) of IoT Hub, which assigns a hub and a name.

Source: "Communicate with your DPS using the MQTT protocol" (learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps).
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge_agent.link.iothub.identity import PORT
from edge_agent.link.mqtt_session import ANSWER_TIMEOUT_S, MqttSession, SessionOptions
from edgewright.contracts import wire
from edgewright.contracts.iothub import sas, topics
from edgewright.errors import DeniedError, OperationError, UnreachableError

API_VERSION = "2019-03-31"
TIMEOUT_S = 120.0
_TOKEN_S = 600
_PAUSE_S = (1.0, 30.0)
"""Shortest and longest pause between two polls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A registration id with its credential: a signature by its key, or a certificate in `context`."""

    host: str
    id_scope: str
    registration: str
    context: ssl.SSLContext
    sign: Callable[[bytes], str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The hub of a device, and its name there."""

    hub: str
    device: str


async def register(registration: Registration) -> Assignment:
    """Register and wait for the assignment.

    Raises:
        DeniedError: no enrolment admits the device.
        UnreachableError: the service does not answer.
        OperationError: the service did not assign a hub.
    """
    exchange = _Exchange()
    session = MqttSession(_options(registration), exchange.receive)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await session.open((topics.DPS_RESPONSES,))
            state = await _assigned(session, exchange, registration)
    except DeniedError as error:
        raise DeniedError(
            f"the provisioning service {registration.host} does not admit {registration.registration}: check id_scope, "
            "registration and the credential in [iothub] of agent.toml, and the clock of this device"
        ) from error
    except (UnreachableError, TimeoutError) as error:
        reason = str(error) or f"no assignment within {TIMEOUT_S:g} s"
        raise UnreachableError(f"cannot register at {registration.host}:{PORT}: {reason}") from error
    finally:
        await session.close()
    return Assignment(str(state["assignedHub"]), str(state["deviceId"]))


class _Exchange:
    """The requests of a session that wait for an answer."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._answers: dict[str, asyncio.Future[tuple[int, float, bytes]]] = {}

    def receive(self, topic: str, body: bytes) -> None:
        """Take an answer."""
        path, query = topics.split_query(topic)
        status, pause = path.rstrip("/").rpartition("/")[2], query.get("retry-after", "")
        waiting = self._answers.get(query.get("$rid", ""))
        if waiting is not None and not waiting.done():
            waiting.set_result((int(status) if status.isdigit() else 500, float(pause) if pause.isdigit() else 0.0, body))

    async def ask(self, session: MqttSession, path: str, parameters: str, body: bytes) -> tuple[int, float, dict[str, Any]]:
        """Return status, pause before the next request in seconds, and body of the answer."""
        number = str(next(self._numbers))
        answer: asyncio.Future[tuple[int, float, bytes]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await session.publish(f"{path}?$rid={number}{parameters}", body)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            status, pause_s, raw = await answer
        return status, pause_s, wire.decode(raw or b"{}", dict[str, Any], what="the answer of the provisioning service")


async def _assigned(session: MqttSession, exchange: _Exchange, registration: Registration) -> dict[str, Any]:
    request = wire.encode({"registrationId": registration.registration})
    status, pause_s, answer = await exchange.ask(session, topics.DPS_REGISTER, "", request)
    while status == 202 or answer.get("status") == "assigning" or status == 429:
        shortest_s, longest_s = _PAUSE_S
        await asyncio.sleep(min(longest_s, max(shortest_s, pause_s)))
        operation = f"&operationId={answer.get('operationId', '')}"
        if status == 429 and not answer.get("operationId"):
            status, pause_s, answer = await exchange.ask(session, topics.DPS_REGISTER, "", request)
        else:
            status, pause_s, answer = await exchange.ask(session, topics.DPS_STATUS, operation, b"")
    if status == 401:
        raise DeniedError(_message(answer))
    if status >= 300 or answer.get("status") != "assigned":
        raise OperationError(
            f"the provisioning service {registration.host} must assign {registration.registration} to a hub, but it did not: "
            f"{_message(answer)}"
        )
    state: dict[str, Any] = answer["registrationState"]
    return state


def _options(registration: Registration) -> SessionOptions:
    resource = f"{registration.id_scope}/registrations/{registration.registration}"
    sign, expires_at = registration.sign, int(time.time()) + _TOKEN_S
    return SessionOptions(
        host=registration.host,
        port=PORT,
        client_id=registration.registration,
        context=registration.context,
        username=f"{resource}/api-version={API_VERSION}&ClientVersion=edgewright",
        password=None if sign is None else sas.create_signed(resource, sign, expires_at, "registration"),
    )


def _message(answer: dict[str, Any]) -> str:
    state = answer.get("registrationState") or {}
    text = answer.get("message") or state.get("errorMessage") or answer.get("status") or "no reason given"
    return " ".join(str(text).split())[:300]
