"""`edgewright iothub`: run a local IoT Hub, and manage its identities, twins, methods and messages."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloud.iothub.commands.devices import certificates_group, devices_group, properties_text
from cloud.iothub.commands.enrolments import group as enrolments_group
from cloud.iothub.commands.options import connect, json_argument, state_option
from edgewright.command_line import common_options, duration, print_json

if TYPE_CHECKING:
    from cloud.iothub.server import Started


@click.group("iothub")
def group() -> None:
    """Run a local IoT Hub for the development of devices."""


group.add_command(devices_group)
group.add_command(certificates_group)
group.add_command(enrolments_group)


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
@click.option(
    "--upload-container",
    metavar="URL",
    envvar="EDGEWRIGHT_UPLOAD_CONTAINER",
    help="Blob container with its signature, for file uploads; better in the environment: EDGEWRIGHT_UPLOAD_CONTAINER.",
)
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
    upload_container: str | None,
    as_json: bool,
) -> None:
    """Run the hub until it is stopped: MQTT for devices, HTTPS for services."""
    from cloud.iothub.http.device import Container
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
        upload_container=Container.from_url(upload_container) if upload_container else None,
    )
    run(settings, lambda started: _announce(started, as_json=as_json))


@group.command("connection-string")
@state_option
@common_options
def connection_string(state: Path, as_json: bool) -> None:
    """Print the connection string of the hub's owner, for service libraries."""
    text = connect(state).service_connection_string()
    print_json({"connection_string": text}) if as_json else click.echo(text)


@group.command("desire")
@click.argument("name")
@click.argument("patch")
@state_option
@common_options
def desire(name: str, patch: str, state: Path, as_json: bool) -> None:
    """Change desired properties of NAME by the JSON object PATCH; null deletes a property."""
    from cloud.iothub.client import path_of

    request = {"properties": {"desired": json_argument(patch)}}
    twin = connect(state).call("PATCH", path_of(name, "twins"), request)
    print_json(twin) if as_json else click.echo(properties_text(twin, "desired"))


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

    request = {"methodName": method, "payload": json_argument(payload), "responseTimeoutInSeconds": round(timeout_s)}
    answer = connect(state).call("POST", f"{path_of(name, 'twins')}/methods", request)
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
    answer = connect(state).call("POST", "/messages/devicebound", text.encode(), headers=headers)
    print_json(answer) if as_json else click.echo(answer["messageId"])


@group.command("events")
@click.option("--after", type=click.IntRange(0), default=0, help="Number of the last event that is not wanted.")
@click.option("--follow", is_flag=True, help="Wait for further events until interrupted.")
@state_option
@common_options
def events(after: int, follow: bool, state: Path, as_json: bool) -> None:
    """Print stored telemetry, one line per message."""
    client = connect(state)
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
