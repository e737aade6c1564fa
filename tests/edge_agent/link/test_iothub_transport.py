"""The transport over a hub with each kind of identity: what it receives, what it sends, and what the hub refuses."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from edge_agent.link.iothub.sources import source_of
from edge_agent.link.iothub.transport import HubTimes, IotHubTransport
from edge_agent.link.transport import Receiver
from edge_agent.settings import IotHubSettings
from edgewright.contracts import wire
from edgewright.contracts.iothub import sas, twin_messages
from edgewright.contracts.messages import Measurement, ReportedState, TelemetryAck, TelemetryBatch
from edgewright.errors import BadInputError, DeniedError, EdgewrightError, UnreachableError
from edgewright.iotedge.runtime.certificates import DeviceAuthority
from edgewright.iotedge.runtime.identities import ModuleIdentity
from edgewright.iotedge.runtime.workload import SOCKET, Workloads
from tests.support.device_certificates import issued, self_signed
from tests.support.running_hub import RunningHub, running_hub

# paho-mqtt does not close a socket whose handshake failed.
pytestmark = pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")

WAIT_S = 120
TIMES = HubTimes(ping_s=60, token_s=3600, answer_s=60)
ENVELOPE = b'{"payload":"' + b"A" * 9000 + b'"}'


@dataclass
class Inbox:
    """A receiver that keeps what it gets."""

    highest_number: int = 0
    received: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    def receive(self, body: bytes) -> None:
        self.received.put_nowait(body)

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.received.get(), WAIT_S)


@dataclass
class Link:
    """An open transport with its receivers."""

    transport: IotHubTransport
    desired: Inbox
    acknowledgements: Inbox


def transport(settings: IotHubSettings, device: str, times: HubTimes = TIMES) -> Link:
    desired, acknowledgements = Inbox(), Inbox()
    receiver = Receiver(desired, acknowledgements)
    return Link(IotHubTransport(device, source_of(settings, device), receiver, {}, times), desired, acknowledgements)


@asynccontextmanager
async def opened(settings: IotHubSettings, device: str, times: HubTimes = TIMES) -> Any:
    link = transport(settings, device, times)
    await link.transport.open()
    try:
        yield link
    finally:
        await link.transport.close()


@dataclass(frozen=True)
class Identities:
    """Settings by kind of identity, the twin of each, and the hub."""

    hub: RunningHub
    settings: dict[str, IotHubSettings]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory, require: Any) -> Iterator[Identities]:
    require("openssl")
    folder = tmp_path_factory.mktemp("identities")
    with running_hub(folder) as hub:
        client, ca = hub.client(), str(hub.ca)
        strings = {}
        for name in ("keyed", "keyed/agent", "edge", "edge/agent"):
            created = client.call("PUT", "/devices/" + name.replace("/", "/modules/"), {})
            strings[name] = client.connection_string(created)
        self_signed(folder, "certified", "certified")
        self_signed(folder, "plant", "plant", authority=True)
        issued(folder, "member", "member", "plant")
        command(hub, "devices", "create", "certified", "--certificate", str(folder / "certified.pem"))
        group = command(hub, "enrolments", "create", "line-1", "--group")
        command(hub, "enrolments", "create", "line-2", "--group", "--certificate", str(folder / "plant.pem"))
        dps: dict[str, Any] = {"id_scope": group["id_scope"], "provisioning_host": hub.host, "ca_file": ca}
        settings = {
            "keyed": IotHubSettings(connection_string=strings["keyed"], ca_file=ca),
            "keyed/agent": IotHubSettings(connection_string=strings["keyed/agent"], ca_file=ca),
            "certified": IotHubSettings(
                connection_string=f"HostName={hub.host};DeviceId=certified;x509=true",
                certificate=str(folder / "certified.pem"),
                key=str(folder / "certified.key"),
                ca_file=ca,
            ),
            "derived": IotHubSettings(symmetric_key=sas.derive_key(group["primary_key"], "derived"), **dps),
            "member": IotHubSettings(certificate=str(folder / "member.pem"), key=str(folder / "member.key"), **dps),
            "edge/agent": IotHubSettings(edge=True),
        }
        module = client.call("GET", "/devices/edge/modules/agent")
        key = module["authentication"]["symmetricKey"]["primaryKey"]
        known = ModuleIdentity("agent", module["generationId"], key)
        workloads = Workloads(folder / "workloads", lambda _name: known, DeviceAuthority(folder, hub.ca))
        environment = {
            "IOTEDGE_IOTHUBHOSTNAME": hub.host,
            "IOTEDGE_DEVICEID": "edge",
            "IOTEDGE_MODULEID": "agent",
            "IOTEDGE_GATEWAYHOSTNAME": hub.host,
            "IOTEDGE_MODULEGENERATIONID": module["generationId"],
            "IOTEDGE_WORKLOADURI": f"unix://{workloads.folder_of('agent') / SOCKET}",
            "IOTEDGE_APIVERSION": "2019-01-30",
        }
        yield Identities(hub, settings, environment)
        workloads.close()


def command(hub: RunningHub, *arguments: str) -> Any:
    line = [sys.executable, "-m", "edgewright", "iothub", *arguments, "--json", "--state", str(hub.state)]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def report_of(device: str) -> bytes:
    return wire.encode(
        ReportedState(device=device, desired_number=0, state=None, reason="no version", since=datetime(2026, 1, 2, tzinfo=UTC))
    )


@pytest.mark.parametrize("name", ["keyed", "keyed/agent", "certified", "derived", "member", "edge/agent"])
def test_every_identity_gets_its_own_twin_and_reports_into_it(
    identities: Identities, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in identities.environment.items():
        monkeypatch.setenv(variable, value)
    client, path = identities.hub.client(), "/twins/" + name.replace("/", "/modules/")
    envelope = ENVELOPE + name.encode()
    change = {"properties": {"desired": {"edgewright": {"envelope": twin_messages.split(envelope)}}}}
    device = name.partition("/")[0]

    async def exchange() -> bytes:
        async with opened(identities.settings[name], device) as link:
            await asyncio.to_thread(client.call, "PATCH", path, change)
            await link.transport.report(report_of(device))
            received: bytes = await link.desired.next()
            return received

    assert asyncio.run(exchange()) == envelope
    reported = client.call("GET", path)["properties"]["reported"]
    assert twin_messages.join(reported, "report") == report_of(device)
    assert reported["edgewright"]["reason"] == "no version"


def test_a_message_to_the_device_is_a_desired_state_if_its_property_says_so(identities: Identities) -> None:
    def send(body: bytes, **properties: str) -> None:
        headers = {"iothub-to": "/devices/keyed/messages/devicebound", **properties}
        identities.hub.client().call("POST", "/messages/devicebound", body, headers=headers)

    async def exchange() -> bytes:
        async with opened(identities.settings["keyed"], "keyed") as link:
            while not link.desired.received.empty():
                link.desired.received.get_nowait()
            await asyncio.to_thread(send, b"look up")
            await asyncio.to_thread(send, b"signed", **{"iothub-app-edgewright": "desired"})
            received: bytes = await link.desired.next()
            return received

    assert asyncio.run(exchange()) == b"signed"


def test_a_batch_that_is_too_long_for_one_message_is_sent_as_several_in_order(identities: Identities) -> None:
    at, labels = datetime(2026, 1, 2, tzinfo=UTC), {"workload": "x" * 3000}
    measurements = tuple(
        Measurement(sequence=number, at=at, name="cpu", value=1.0, unit="percent", labels=labels) for number in range(1, 201)
    )
    after = identities.hub.client().call("GET", "/messages/events")["after"]

    async def send() -> list[TelemetryAck]:
        async with opened(identities.settings["keyed"], "keyed") as link:
            await link.transport.telemetry(wire.encode(TelemetryBatch(device="keyed", queue_id="q", measurements=measurements)))
            queue = link.acknowledgements.received
            return [wire.decode(queue.get_nowait(), TelemetryAck, what="acknowledgement") for _ in range(queue.qsize())]

    acknowledged = [each.sequence for each in asyncio.run(send())]
    events = identities.hub.client().call("GET", "/messages/events", query={"after": after})["events"]
    bodies = [wire.decode(base64.b64decode(each["body"]), TelemetryBatch, what="event") for each in events]
    assert [each.sequence for body in bodies for each in body.measurements] == list(range(1, 201))
    assert [int(each["properties"]["last"]) for each in events] == acknowledged
    assert len(events) == 4


def test_one_measurement_that_is_too_long_is_one_clear_line(identities: Identities) -> None:
    one = Measurement(sequence=7, at=datetime.now(UTC), name="n", value=1.0, unit="u", labels={"x": "y" * (256 << 10)})
    batch = wire.encode(TelemetryBatch(device="keyed", queue_id="q", measurements=(one,)))

    async def send() -> None:
        async with opened(identities.settings["keyed"], "keyed") as link:
            await link.transport.telemetry(batch)

    with pytest.raises(BadInputError, match="a message to a hub must have at most 262144 bytes, but measurement 7 has"):
        asyncio.run(send())


def test_the_session_ends_in_time_for_a_new_token(identities: Identities) -> None:
    async def lost() -> str:
        async with opened(identities.settings["keyed"], "keyed", HubTimes(ping_s=60, token_s=10, answer_s=60)) as link:
            reason: str = await asyncio.wait_for(link.transport.lost(), WAIT_S)
            return reason

    assert asyncio.run(lost()) == "the token of the hub is renewed"


@pytest.mark.parametrize(
    ("changes", "device", "token_s", "error", "message"),
    [
        pytest.param({}, "other", 3600, BadInputError, "must be that of other, the name under which", id="another device"),
        pytest.param(
            {"connection_string": "HostName={host};DeviceId=keyed;SharedAccessKey=" + "A" * 43 + "="},
            "keyed",
            3600,
            DeniedError,
            "does not accept the credential of keyed: check [iothub] in agent.toml, and the clock of this device",
            id="wrong key",
        ),
        pytest.param({}, "keyed", -60, DeniedError, "does not accept the credential of keyed", id="expired token"),
        pytest.param({"ca_file": ""}, "keyed", 3600, UnreachableError, "CERTIFICATE_VERIFY_FAILED", id="unknown authority"),
        pytest.param(
            {"connection_string": "HostName=127.0.0.1;DeviceId=keyed;SharedAccessKey=" + "A" * 43 + "="},
            "keyed",
            3600,
            UnreachableError,
            "cannot connect to the hub at 127.0.0.1:8883",
            id="no hub",
        ),
        pytest.param(
            {"connection_string": "", "id_scope": "{scope}", "symmetric_key": "A" * 43 + "=", "provisioning_host": "{host}"},
            "stranger",
            3600,
            DeniedError,
            "does not admit stranger: check id_scope, registration and the credential in [iothub]",
            id="no enrolment",
        ),
        pytest.param(
            {"connection_string": "", "edge": True}, "keyed", 3600, BadInputError, "IOTEDGE_DEVICEID", id="not a module"
        ),
    ],
)
def test_a_refusal_is_one_clear_line(
    identities: Identities, changes: dict[str, Any], device: str, token_s: float, error: type[EdgewrightError], message: str
) -> None:
    keyed, scope = identities.settings["keyed"], identities.settings["derived"].id_scope
    filled = {
        name: value.format(host=identities.hub.host, scope=scope) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    given: dict[str, Any] = {"connection_string": keyed.connection_string, "ca_file": keyed.ca_file, **filled}
    settings = IotHubSettings(**given)
    link = transport(settings, device, HubTimes(ping_s=60, token_s=token_s))
    with pytest.raises(error) as refused:
        asyncio.run(link.transport.open())
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "SharedAccessKey=" not in str(refused.value)
