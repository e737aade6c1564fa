"""`edgewright iothub`: run a local IoT Hub, and manage its identities, twins, methods and messages."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgewright.command_line import common_options, duration, print_json, print_table
from edgewright.errors import BadInputError

if TYPE_CHECKING:
    from cloud.iothub.client import HubClient
    from cloud.iothub.server import Started

DEFAULT_STATE = Path("~/.local/share/edgewright/iothub")
F = TypeVar("F", bound=Callable[..., Any])


def state_option(command: F) -> F:
    """Add `--state` to a command."""
    return click.option(
        "--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True, help="State directory of the hub."
    )(command)


@click.group("iothub")
def group() -> None:
    """Run a local IoT Hub for the development of devices."""


@group.command()
@state_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--name", "names", multiple=True, help="Host name of the hub; the first one is in connection strings.")
@click.option(
    "--mqtt-port",
    type=click.IntRange(0, 65535),
    default=8883,
    show_default=True,
    help="Azure's client libraries always use 8883. 0: a free port.",
)
@click.option("--https-port", type=click.IntRange(0, 65535), help="Default: 443, or 8443 without the permission to open 443.")
@click.option(
    "--plain-mqtt-port", type=click.IntRange(0, 65535), help="Another port for MQTT without TLS, on a loopback address."
)
@click.option("--keep-events", type=click.IntRange(1), default=1_000_000, show_default=True, help="Telemetry messages to keep.")
@click.option("--max-connections", type=click.IntRange(1), default=10_000, show_default=True, help="Connected clients.")
@common_options
def up(
    state: Path,
    host: str,
    names: tuple[str, ...],
    mqtt_port: int,
    https_port: int | None,
    plain_mqtt_port: int | None,
    keep_events: int,
    max_connections: int,
    as_json: bool,
) -> None:
    """Run the hub until it is stopped: MQTT for devices, HTTPS for services."""
    from cloud.iothub.server import Settings, run

    settings = Settings(
        state=state.expanduser(),
        host=host,
        names=names,
        mqtt_port=mqtt_port,
        https_port=https_port,
        plain_mqtt_port=plain_mqtt_port,
        max_events=keep_events,
        max_connections=max_connections,
    )
    run(settings, lambda started: _announce(started, as_json=as_json))


@group.command("connection-string")
@state_option
@common_options
def connection_string(state: Path, as_json: bool) -> None:
    """Print the connection string of the hub's owner, for service libraries."""
    text = _connect(state).service_connection_string()
    print_json({"connection_string": text}) if as_json else click.echo(text)


@group.group("devices")
def devices() -> None:
    """Create, list, show and delete devices and modules."""


@devices.command("create")
@click.argument("name")
@click.option("--edge", is_flag=True, help="An IoT Edge device.")
@click.option("--thumbprint", "thumbprints", multiple=True, help="SHA-256 of the certificate of the device (at most two).")
@click.option("--ca-signed", is_flag=True, help="The device has a certificate of an uploaded authority.")
@state_option
@common_options
def create(name: str, edge: bool, thumbprints: tuple[str, ...], ca_signed: bool, state: Path, as_json: bool) -> None:
    """Create the device NAME or the module DEVICE/MODULE, and print its connection string once."""
    from cloud.iothub.client import path_of

    if (ca_signed and thumbprints) or len(thumbprints) > 2:
        raise click.UsageError("give --ca-signed or at most two of --thumbprint")
    request: dict[str, Any] = {"capabilities": {"iotEdge": edge}}
    if thumbprints:
        pair = dict(zip(("primaryThumbprint", "secondaryThumbprint"), thumbprints, strict=False))
        request["authentication"] = {"type": "selfSigned", "x509Thumbprint": pair}
    elif ca_signed:
        request["authentication"] = {"type": "certificateAuthority"}
    client = _connect(state)
    _print_connection_string(client, client.call("PUT", path_of(name), request), as_json=as_json)


@devices.command("rotate")
@click.argument("name")
@click.option(
    "--key", type=click.Choice(("primary", "secondary")), default="primary", show_default=True, help="The key to replace."
)
@state_option
@common_options
def rotate(name: str, key: str, state: Path, as_json: bool) -> None:
    """Replace a key of NAME, and print the new connection string once; the other key stays valid."""
    from cloud.iothub.client import path_of
    from cloud.iothub.devices.sas import new_key

    client = _connect(state)
    current = client.call("GET", path_of(name))
    current["authentication"]["symmetricKey"][f"{key}Key"] = new_key()
    changed = client.call("PUT", path_of(name), current, headers={"If-Match": current["etag"]})
    _print_connection_string(client, changed, as_json=as_json)


@devices.command("list")
@state_option
@common_options
def list_devices(state: Path, as_json: bool) -> None:
    """List the devices."""
    found = [_without_keys(each) for each in _connect(state).call("GET", "/devices")]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["deviceId"],
            each["authentication"]["type"],
            each["status"],
            each["connectionState"].lower(),
            each["lastActivityTime"],
        )
        for each in found
    ]
    print_table(("device", "credential", "status", "connection", "last active"), rows)


@devices.command("show")
@click.argument("name")
@state_option
@common_options
def show(name: str, state: Path, as_json: bool) -> None:
    """Show a device or module with its twin, without keys."""
    from cloud.iothub.client import path_of

    client = _connect(state)
    identity = _without_keys(client.call("GET", path_of(name)))
    twin = client.call("GET", path_of(name, "twins"))
    modules = [] if "/" in name else client.call("GET", f"{path_of(name)}/modules")
    shared = client.call("GET", "/statistics/service")["sharedIdentities"].get(name)
    if as_json:
        print_json({"identity": identity, "twin": twin, "modules": [each["moduleId"] for each in modules], "shared_at": shared})
        return
    rows = [
        ("credential", identity["authentication"]["type"]),
        ("status", identity.get("status", "enabled")),
        ("connection", f"{identity['connectionState'].lower()}, since {identity['connectionStateUpdatedTime']}"),
        ("used by two clients", shared and f"in turns, last at {shared}: give one of them an identity of its own"),
        ("waiting messages", identity["cloudToDeviceMessageCount"]),
        ("modules", ", ".join(each["moduleId"] for each in modules) or None),
        ("desired", _properties(twin, "desired")),
        ("reported", _properties(twin, "reported")),
        ("tags", json.dumps(twin["tags"])),
    ]
    print_table(("field", "value"), rows)


@devices.command("delete")
@click.argument("name")
@state_option
@common_options
def delete(name: str, state: Path, as_json: bool) -> None:
    """Delete a device with its modules, or one module."""
    from cloud.iothub.client import path_of

    _connect(state).call("DELETE", path_of(name), headers={"If-Match": "*"})
    print_json({"deleted": name}) if as_json else click.echo(f"deleted {name}")


@group.command("desire")
@click.argument("name")
@click.argument("patch")
@state_option
@common_options
def desire(name: str, patch: str, state: Path, as_json: bool) -> None:
    """Change desired properties of NAME by the JSON object PATCH; null deletes a property."""
    from cloud.iothub.client import path_of

    request = {"properties": {"desired": _json(patch)}}
    twin = _connect(state).call("PATCH", path_of(name, "twins"), request)
    print_json(twin) if as_json else click.echo(_properties(twin, "desired"))


@group.command("invoke")
@click.argument("name")
@click.argument("method")
@click.argument("payload", default="null")
@click.option("--timeout", "timeout_s", type=duration, default="30s", show_default=True, help="Time to wait for the answer.")
@state_option
@common_options
def invoke(name: str, method: str, payload: str, timeout_s: float, state: Path, as_json: bool) -> None:
    """Call METHOD of a connected device or module with the JSON PAYLOAD."""
    from cloud.iothub.client import path_of

    request = {"methodName": method, "payload": _json(payload), "responseTimeoutInSeconds": round(timeout_s)}
    answer = _connect(state).call("POST", f"{path_of(name, 'twins')}/methods", request)
    print_json(answer) if as_json else click.echo(f"{answer['status']} {json.dumps(answer['payload'])}")


@group.command("send")
@click.argument("device")
@click.argument("text")
@click.option("--valid", "valid_s", type=duration, default="1h", show_default=True, help="Time until the message expires.")
@state_option
@common_options
def send(device: str, text: str, valid_s: float, state: Path, as_json: bool) -> None:
    """Send TEXT to a device; it waits until the device is connected."""
    headers = {"iothub-to": f"/devices/{device}/messages/devicebound", "iothub-expiry": str(round(valid_s))}
    answer = _connect(state).call("POST", "/messages/devicebound", text.encode(), headers=headers)
    print_json(answer) if as_json else click.echo(answer["messageId"])


@group.command("events")
@click.option("--after", type=click.IntRange(0), default=0, help="Number of the last event that is not wanted.")
@click.option("--follow", is_flag=True, help="Wait for further events until interrupted.")
@state_option
@common_options
def events(after: int, follow: bool, state: Path, as_json: bool) -> None:
    """Print stored telemetry, one line per message."""
    client = _connect(state)
    while True:
        answer = client.call("GET", "/messages/events", query={"after": after, "wait": 30 if follow else 0})
        for each in answer["events"]:
            body = base64.b64decode(each["body"])
            text = body.decode("utf-8", "backslashreplace")
            line = (
                json.dumps({**each, "body": text})
                if as_json
                else f"{each['number']} {each['identity']} {each['properties']} {text}"
            )
            click.echo(line)
        after = answer["after"]
        if not answer["events"] and not follow:
            return
        sys.stdout.flush()


def _connect(state: Path) -> HubClient:
    from cloud.iothub.client import HubClient

    return HubClient.connect(state)


def _announce(started: Started, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "hostname": started.hostname,
                "mqtt_port": started.mqtt_port,
                "https_port": started.https_port,
                "plain_mqtt_port": started.plain_mqtt_port,
                "ca_file": str(started.state.ca_file),
            }
        )
    else:
        click.echo(f"hub {started.hostname}: MQTT on port {started.mqtt_port}, service API on port {started.https_port}")
        click.echo(f"clients verify it with {started.state.ca_file}")
        if started.mqtt_port != 8883:
            click.echo("Azure's client libraries connect to port 8883 only")
    sys.stdout.flush()


def _print_connection_string(client: HubClient, identity: dict[str, Any], *, as_json: bool) -> None:
    text = client.connection_string(identity)
    print_json({"connection_string": text}) if as_json else click.echo(text)


def _without_keys(identity: dict[str, Any]) -> dict[str, Any]:
    authentication = {name: each for name, each in identity["authentication"].items() if name != "symmetricKey"}
    return {**identity, "authentication": authentication}


def _properties(twin: dict[str, Any], section: str) -> str:
    return json.dumps({name: each for name, each in twin["properties"][section].items() if name != "$metadata"})


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInputError(f"the argument must be JSON, as in '{{\"interval\": 5}}', not {text[:80]!r}: {error}") from error
