"""A session with a hub: the twin is the desired and the reported state, D2C messages are telemetry, direct methods are commands.

    open        connect, subscribe, read the twin: the signed desired state goes to the inbox, which verifies it
    lost        ends with the session, without an answer to a ping, or in time to renew the token
    report      a patch of the reported properties; returns when the hub has stored it
    telemetry   one D2C message, which the hub acknowledges when it has stored it; the agent then deletes the measurements

A ping reads the twin. A hub that accepts TCP but does not answer is therefore noticed, and a missed change of the twin is found.
Nothing in a hub is trusted: whoever may write the twin cannot sign a desired state.
Source: "Communicate with an IoT hub using the MQTT protocol" (learn.microsoft.com).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.link.iothub.identity import PORT, HubIdentity, IdentitySource
from edge_agent.link.mqtt_session import ANSWER_TIMEOUT_S, MqttSession
from edge_agent.link.transport import Receiver
from edgewright.contracts import wire
from edgewright.contracts.iothub import topics, twin_messages
from edgewright.contracts.messages import ReportedState, TelemetryAck, TelemetryBatch
from edgewright.errors import BadInputError, DeniedError, MessageError, UnreachableError

_log = logging.getLogger(__name__)

RENEW_AT = 0.75
"""Share of the life of a token after which the agent connects with a new one."""
MESSAGE_TYPE = "edgewright"
"""Property of a message: `telemetry` from a device, `desired` to a device."""

Command = Callable[[Any], Any]
"""A direct method: the JSON value of its request to that of its answer; raises `BadInputError` for an invalid request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTimes:
    """Times of a session, in seconds."""

    ping_s: float
    token_s: float
    answer_s: float = ANSWER_TIMEOUT_S


class IotHubTransport:
    """Sessions of one device or module."""

    name = "iothub"

    def __init__(
        self,
        device: str,
        source: IdentitySource,
        receiver: Receiver,
        commands: Mapping[str, Command],
        times: HubTimes,
    ) -> None:
        self._device = device
        self._source = source
        self._receiver = receiver
        self._commands = commands
        self._times = times
        self._identity: HubIdentity | None = None
        self._session: MqttSession | None = None
        self._requests = itertools.count(1)
        self._answers: dict[str, asyncio.Future[tuple[int, bytes]]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect, subscribe and read the twin.

        Raises:
            DeniedError: the hub does not accept the credential.
            BadInputError: the credential is that of another device.
            UnreachableError: the hub does not answer.
        """
        identity = await self._source.identify()
        if identity.device != self._device:
            raise BadInputError(
                f"the identity at {identity.host} must be that of {self._device}, the name under which the device is enrolled, "
                f"but it is that of {identity.device}"
            )
        options = await asyncio.to_thread(identity.session_options, self._times.token_s)
        session = MqttSession(options, self._received)
        self._identity, self._session, self._answers = identity, session, {}
        own = () if identity.module else (f"{topics.devicebound(identity.name)}#",)
        try:
            await session.open((topics.TWIN_RESPONSES, topics.DESIRED, topics.METHODS, *own))
            await self._read_twin()
        except DeniedError as error:
            self._source.forget()
            await self.close()
            raise DeniedError(
                f"the hub {identity.host} does not accept the credential of {identity.name}: check [iothub] in agent.toml, "
                "and the clock of this device"
            ) from error
        except UnreachableError as error:
            self._source.forget()
            await self.close()
            raise UnreachableError(f"cannot connect to the hub at {identity.gateway or identity.host}:{PORT}: {error}") from error
        except BaseException:
            await self.close()
            raise

    async def lost(self) -> str:
        """Ping until the session ends, a ping is not answered, or the token must be renewed; return the reason."""
        session, identity = self._open()
        loop, lost = asyncio.get_running_loop(), asyncio.create_task(session.lost())
        renew_at = loop.time() + self._times.token_s * RENEW_AT
        try:
            while True:
                left_s = renew_at - loop.time() if identity.sign is not None else self._times.ping_s
                done, _ = await asyncio.wait({lost}, timeout=max(0.0, min(left_s, self._times.ping_s)))
                if done:
                    return lost.result()
                if identity.sign is not None and loop.time() >= renew_at:
                    return "the token of the hub is renewed"
                try:
                    await self._read_twin()
                except (UnreachableError, MessageError) as error:
                    return f"the hub does not answer a ping: {error}"
        finally:
            lost.cancel()

    async def report(self, body: bytes) -> None:
        """Patch the reported properties and return when the hub has stored them."""
        reported = wire.decode(body, ReportedState, what="the report")
        running = reported.running
        patch = {
            twin_messages.REPORT: twin_messages.split(body),
            "state": reported.state,
            "reason": reported.reason[:1000],
            "desired_number": reported.desired_number,
            "model": running.model if running else None,
            "version": running.version if running else None,
            "variant": running.variant if running else None,
            "agent_version": reported.agent_version,
        }
        status, raw = await self._request(topics.TWIN_REPORTED, wire.encode({twin_messages.PROPERTY: patch}))
        if status >= 300:
            raise UnreachableError(f"the hub refuses a report with status {status}: {raw[:200].decode('utf-8', 'replace')}")

    async def telemetry(self, body: bytes) -> None:
        """Send a batch as one message, or as several if it is longer than a hub accepts; acknowledge what the hub has."""
        await self._send_batch(wire.decode(body, TelemetryBatch, what="the telemetry"))

    async def close(self) -> None:
        """Disconnect."""
        session, self._session = self._session, None
        for task in tuple(self._answering):
            task.cancel()
        if session is not None:
            await session.close()

    async def _send_batch(self, batch: TelemetryBatch) -> None:
        session, identity = self._open()
        measurements, body = batch.measurements, wire.encode(batch)
        last = measurements[-1].sequence
        properties = {
            "$.ct": "application/json",
            "$.ce": "utf-8",
            MESSAGE_TYPE: "telemetry",
            "queue": batch.queue_id,
            "first": str(measurements[0].sequence),
            "last": str(last),
        }
        topic = topics.events(identity.name) + topics.format_properties(properties)
        length, longest = len(body) + len(topic), twin_messages.MAX_TELEMETRY_BYTES
        if length > longest and len(measurements) == 1:
            raise BadInputError(f"a message to a hub must have at most {longest} bytes, but measurement {last} has {length}")
        if length > longest:
            middle = len(measurements) // 2
            for half in (measurements[:middle], measurements[middle:]):
                await self._send_batch(TelemetryBatch(device=batch.device, queue_id=batch.queue_id, measurements=half))
            return
        await session.publish(topic, body)
        self._receiver.acknowledgements.receive(wire.encode(TelemetryAck(queue_id=batch.queue_id, sequence=last)))

    async def _read_twin(self) -> None:
        status, raw = await self._request(topics.TWIN_GET, b"")
        if status != 200:
            raise UnreachableError(f"it answers with status {status} for the twin")
        self._take_desired(wire.decode(raw, dict[str, Any], what="the twin").get("desired"))

    async def _request(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer of the hub."""
        session, _ = self._open()
        number = str(next(self._requests))
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            await session.publish(f"{path}?$rid={number}", body)
            async with asyncio.timeout(self._times.answer_s):
                return await answer
        except TimeoutError:
            raise UnreachableError(f"no answer within {self._times.answer_s:g} s") from None
        finally:
            del self._answers[number]

    def _open(self) -> tuple[MqttSession, HubIdentity]:
        if self._session is None or self._identity is None:
            raise UnreachableError("the session with the hub must be open, but it is not")
        return self._session, self._identity

    def _received(self, topic: str, body: bytes) -> None:
        path, query = topics.split_query(topic)
        try:
            if path.startswith(topics.TWIN_RESPONSES.rstrip("#")):
                self._take_answer(path, query.get("$rid", ""), body)
            elif path.startswith(topics.DESIRED.rstrip("#")):
                self._take_desired(wire.decode(body, dict[str, Any], what="the change of the twin"))
            elif path.startswith(topics.METHODS.rstrip("#")):
                name = path.removeprefix(topics.METHODS.rstrip("#")).strip("/")
                self._answer_method(name, query.get("$rid", ""), body)
            else:
                self._take_message(topics.parse_properties(topic.partition("/messages/devicebound/")[2]), body)
        except MessageError as error:
            _log.warning("ignored message of the hub topic=%s reason=%r", path, str(error))

    def _take_answer(self, path: str, number: str, body: bytes) -> None:
        waiting, status = self._answers.get(number), path.rstrip("/").rpartition("/")[2]
        if waiting is not None and not waiting.done():
            waiting.set_result((int(status) if status.isdigit() else 500, body))

    def _take_desired(self, section: object) -> None:
        """Pass the envelope of desired properties on; a patch contains the property as a whole, or not at all."""
        envelope = twin_messages.join(section, twin_messages.ENVELOPE) if isinstance(section, Mapping) else None
        if envelope is not None:
            self._receiver.desired.receive(envelope)

    def _take_message(self, properties: Mapping[str, str], body: bytes) -> None:
        if properties.get(MESSAGE_TYPE) == "desired":
            self._receiver.desired.receive(body)
        else:
            _log.warning("ignored message to the device reason='it has no property %s=desired'", MESSAGE_TYPE)

    def _answer_method(self, name: str, number: str, body: bytes) -> None:
        """Run a direct method and send its answer."""
        status, answer = self._call(name, body)
        task = asyncio.create_task(self._send_answer(status, number, answer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _send_answer(self, status: int, number: str, answer: Any) -> None:
        try:
            session, _ = self._open()
            await session.publish(f"{topics.METHOD_RESPONSE}{status}/?$rid={number}", json.dumps(answer).encode())
        except UnreachableError as error:
            _log.info("could not answer a direct method reason=%r", str(error))

    def _call(self, name: str, body: bytes) -> tuple[int, Any]:
        command = self._commands.get(name)
        if command is None:
            return 404, {"error": f"the agent has no method {name[:100]!r}; it has {', '.join(sorted(self._commands))}"}
        try:
            _log.info("called method=%s", name)
            return 200, command(json.loads(body or b"null"))
        except (ValueError, BadInputError) as error:
            return 400, {"error": f"the payload of {name} must be valid: {error}"}
