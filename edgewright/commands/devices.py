"""`edgewright devices`: the devices of the fleet, the version that each runs, and why."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from datetime import datetime

import click

from edgewright.command_line import duration, print_json, print_table
from edgewright.commands.cloud_options import cloud_options, label, labels_text, moment
from edgewright.contracts.messages import DeploymentState, DeviceRecord, ReportedState, TokenRequest
from edgewright.contracts.names import check_name
from edgewright.sdk import CloudClient


@click.group("devices")
def group() -> None:
    """Enrol, list, explain and revoke devices."""


@group.command("token")
@click.option("--device", help="The only device that may use it; without, any device may, under a name of its own.")
@click.option("--label", "labels", type=label, multiple=True, help="A label for the device (repeat for more).")
@click.option("--valid", "valid_s", type=duration, default="1h", show_default=True, help="Time until it expires.")
@cloud_options
def token(device: str | None, labels: tuple[tuple[str, str], ...], valid_s: float, cloud: str | None, as_json: bool) -> None:
    """Make a token that enrols one device, once."""
    if device is not None:
        check_name(device, "device")
    with CloudClient.connect(cloud) as client:
        issued = client.issue_token(TokenRequest(device=device, labels=dict(labels), valid_s=valid_s))
    if as_json:
        print_json(issued)
        return
    click.echo(issued.token)
    if on_a_terminal():
        click.echo(f"single use, valid until {moment(issued.expires_at)}; run on the device:", err=True)
        click.echo(f"  {enrol_command(issued.token, device)}", err=True)


def on_a_terminal() -> bool:
    """Return True if the error stream is a terminal."""
    return sys.stderr.isatty()


def enrol_command(token: str, device: str | None) -> str:
    """Return the command that enrols a device with a token; a device without a name gets the placeholder NAME."""
    return shlex.join(["edgewright", "agent", "enrol", "--token", token, "--name", device or "NAME"])


@group.command("list")
@cloud_options
def list_devices(cloud: str | None, as_json: bool) -> None:
    """List every device with its version and its state."""
    with CloudClient.connect(cloud) as client:
        devices = client.devices()
    if as_json:
        print_json(devices)
        return
    columns = ("device", "profile", "online", "running", "variant", "state", "labels", "reason")
    print_table(columns, [_row(device) for device in devices])


@group.command("show")
@click.argument("device")
@cloud_options
def show(device: str, cloud: str | None, as_json: bool) -> None:
    """Show the cloud's record of one device."""
    record = _fetch(device, cloud)
    if as_json:
        print_json(record)
        return
    reported = record.reported
    rows = [
        ("device", record.device),
        ("profile", record.profile or None),
        ("labels", labels_text(record.labels)),
        ("online", _online(record)),
        ("enrolled", moment(record.enrolled_at)),
        ("last seen", record.last_seen_at and moment(record.last_seen_at)),
        ("desired", _desired(record)),
        ("running", _running(record)),
        ("state", _state(record)),
        ("agent", reported and reported.agent_version),
        ("pulled", reported and f"{reported.bytes_pulled:,} bytes for desired state {reported.desired_number}"),
        ("telemetry", f"{record.telemetry_count:,} measurements"),
    ]
    print_table(("field", "value"), rows)


@group.command("explain")
@click.argument("device")
@cloud_options
def explain(device: str, cloud: str | None, as_json: bool) -> None:
    """Explain the state of a device: its reason, its start time, and the next step."""
    record = _fetch(device, cloud)
    if as_json:
        print_json(record)
        return
    for line in explanation(record):
        click.echo(line)


@group.command("label")
@click.argument("device")
@click.argument("labels", nargs=-1, required=True, type=label)
@cloud_options
def set_labels(device: str, labels: tuple[tuple[str, str], ...], cloud: str | None, as_json: bool) -> None:
    """Set labels of a device, as in site=plant-2; an empty text (site=) removes one."""
    check_name(device, "device")
    with CloudClient.connect(cloud) as client:
        merged = {**client.device(device).labels, **dict(labels)}
        record = client.set_labels(device, {name: text for name, text in merged.items() if text})
    if as_json:
        print_json(record)
    else:
        click.echo(f"{record.device}: {labels_text(record.labels) or 'no labels'}")


@group.command("revoke")
@click.argument("device")
@cloud_options
def revoke(device: str, cloud: str | None, as_json: bool) -> None:
    """Revoke a device's certificate; the cloud rejects the device at once."""
    check_name(device, "device")
    with CloudClient.connect(cloud) as client:
        record = client.revoke(device)
    if as_json:
        print_json(record)
    else:
        click.echo(f"{record.device} is revoked: the cloud rejects its certificate from now on")


def explanation(record: DeviceRecord) -> Iterator[str]:
    """Yield the lines of `explain`."""
    seen = f"last seen {moment(record.last_seen_at)}" if record.last_seen_at else "never seen"
    yield f"{record.device} ({record.profile or 'profile unknown'}) is {_online(record)}, {seen}"
    if record.identity_shared_at is not None:
        yield f"identity  {_shared_identity(record.identity_shared_at)}"
    yield f"desired   {_desired(record) or 'nothing yet; edgewright rollouts create requests a version'}"
    yield f"running   {_running(record) or 'nothing'}"
    if record.reported is not None:
        yield from _explain_report(record.reported, record)
        if record.reported.choice:
            yield "why this variant"
            yield from (f"          {sentence}" for sentence in record.reported.choice)


def _shared_identity(at: datetime) -> str:
    return (
        f"used by two agents in turns, last at {moment(at)}: a state directory was copied; "
        "stop the copy and enrol it under a name of its own"
    )


def _explain_report(reported: ReportedState, record: DeviceRecord) -> Iterator[str]:
    state = _words(reported.state) if reported.state else "idle"
    if record.desired is not None and reported.desired_number < record.desired.desired_number:
        yield f"state     offered: {'no report yet' if record.online else 'sent when the device is back online'}"
        yield f"before    {state}: {reported.reason or 'no reason given'}"
        return
    yield f"state     {state}, since {moment(reported.since)}, attempt {reported.attempt}"
    yield f"reason    {reported.reason or 'none given'}"
    yield f"next      {_next(reported)}"


def _next(reported: ReportedState) -> str:
    if reported.next_retry_at is not None:
        return f"next attempt at {moment(reported.next_retry_at)}"
    if reported.state is None or reported.state.is_final:
        return "nothing, until another version is desired"
    return "continues automatically"


def _fetch(device: str, cloud: str | None) -> DeviceRecord:
    check_name(device, "device")
    with CloudClient.connect(cloud) as client:
        return client.device(device)


def _row(record: DeviceRecord) -> tuple[object, ...]:
    reported = record.reported
    running = reported.running if reported else None
    return (
        record.device,
        record.profile or None,
        _online(record),
        running and f"{running.model}:{running.version}",
        running and running.variant,
        _state(record),
        labels_text(record.labels),
        (reported and reported.reason) or None,
    )


def _online(record: DeviceRecord) -> str:
    if record.revoked:
        return "revoked"
    return "online" if record.online else "offline"


def _desired(record: DeviceRecord) -> str | None:
    desired = record.desired
    return None if desired is None else f"{desired.model}:{desired.version} (desired state {desired.desired_number})"


def _running(record: DeviceRecord) -> str | None:
    running = record.reported.running if record.reported else None
    if running is None:
        return None
    return f"{running.model}:{running.version}, variant {running.variant} ({running.precision}) on {running.backend}"


def _state(record: DeviceRecord) -> str | None:
    """Return the state of the current desired state, not of an earlier one."""
    reported = record.reported
    if record.desired is not None and (reported is None or reported.desired_number < record.desired.desired_number):
        return _words(DeploymentState.OFFERED)
    return _words(reported.state) if reported and reported.state else None


def _words(state: DeploymentState) -> str:
    return state.value.replace("_", " ")
