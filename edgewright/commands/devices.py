"""`edgewright devices`: who is a member of the fleet, what each runs, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from edgewright.command_line import print_json, print_table
from edgewright.commands.cloud_options import cloud_options, duration, label, labels_text, moment
from edgewright.contracts.messages import DeploymentState, DeviceRecord, ReportedState, TokenRequest
from edgewright.contracts.names import check_name
from edgewright.sdk import CloudClient


@click.group("devices")
def group() -> None:
    """Enrol, list, explain and revoke devices."""


@group.command("token")
@click.option("--device", help="Only this device may use it; without, the device names itself.")
@click.option("--label", "labels", type=label, multiple=True, help="A label that the device is given (repeat for more).")
@click.option("--valid", "valid_s", type=duration, default="1h", show_default=True, help="How long it can be used.")
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
    if sys.stderr.isatty():
        click.echo(f"good once, until {moment(issued.expires_at)}; on the device: edgewright agent enrol TOKEN", err=True)


@group.command("list")
@cloud_options
def list_devices(cloud: str | None, as_json: bool) -> None:
    """List every device: what it runs and how far it got."""
    with CloudClient.connect(cloud) as client:
        devices = client.devices()
    if as_json:
        print_json(devices)
        return
    columns = ("device", "profile", "online", "running", "variant", "state", "labels", "reason")
    print_table(columns, [_row(each) for each in devices])


@group.command("show")
@click.argument("device")
@cloud_options
def show(device: str, cloud: str | None, as_json: bool) -> None:
    """Show all that the cloud knows of one device."""
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
        ("pulled", reported and f"{reported.bytes_pulled:,} bytes for desired version {reported.desired_number}"),
        ("telemetry", f"{record.telemetry_count:,} measurements"),
    ]
    print_table(("", ""), rows)


@group.command("explain")
@click.argument("device")
@cloud_options
def explain(device: str, cloud: str | None, as_json: bool) -> None:
    """Say what a device is doing, why, since when, and what comes next."""
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
        wanted = {**client.device(device).labels, **dict(labels)}
        record = client.set_labels(device, {name: text for name, text in wanted.items() if text})
    if as_json:
        print_json(record)
    else:
        click.echo(f"{record.device}: {labels_text(record.labels) or 'no labels'}")


@group.command("revoke")
@click.argument("device")
@cloud_options
def revoke(device: str, cloud: str | None, as_json: bool) -> None:
    """Close every door of the cloud to a device, at once."""
    check_name(device, "device")
    with CloudClient.connect(cloud) as client:
        record = client.revoke(device)
    if as_json:
        print_json(record)
    else:
        click.echo(f"{record.device} is revoked: its certificate opens nothing any more")


def explanation(record: DeviceRecord) -> Iterator[str]:
    """Yield the lines of `explain`."""
    seen = f"last seen {moment(record.last_seen_at)}" if record.last_seen_at else "never seen"
    yield f"{record.device} ({record.profile or 'profile unknown'}) is {_online(record)}, {seen}"
    yield f"desired   {_desired(record) or 'nothing yet; edgewright rollouts create offers it a version'}"
    yield f"running   {_running(record) or 'nothing'}"
    if record.reported is not None:
        yield from _last_word(record.reported, record)
        if record.reported.choice:
            yield "why this variant"
            yield from (f"          {sentence}" for sentence in record.reported.choice)


def _last_word(reported: ReportedState, record: DeviceRecord) -> Iterator[str]:
    state = _words(reported.state) if reported.state else "idle"
    if record.desired is not None and reported.desired_number < record.desired.desired_number:
        yield f"state     offered: {'it has not answered yet' if record.online else 'it takes it when it is back online'}"
        yield f"before    {state}: {reported.reason or 'no reason given'}"
        return
    yield f"state     {state}, since {moment(reported.since)}, attempt {reported.attempt}"
    yield f"reason    {reported.reason or 'none given'}"
    yield f"next      {_next(reported)}"


def _next(reported: ReportedState) -> str:
    if reported.next_retry_at is not None:
        return f"tries again at {moment(reported.next_retry_at)}"
    if reported.state is None or reported.state.is_final:
        return "nothing, until another version is desired"
    return "goes on by itself"


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
    return None if desired is None else f"{desired.model}:{desired.version} (desired version {desired.desired_number})"


def _running(record: DeviceRecord) -> str | None:
    running = record.reported.running if record.reported else None
    if running is None:
        return None
    built = f"variant {running.variant} ({running.precision}) on {running.backend}"
    return f"{running.model}:{running.version}, {built}"


def _state(record: DeviceRecord) -> str | None:
    """Return the state of what is desired now, not of what was desired before."""
    reported = record.reported
    if record.desired is not None and (reported is None or reported.desired_number < record.desired.desired_number):
        return _words(DeploymentState.OFFERED)
    return _words(reported.state) if reported and reported.state else None


def _words(state: DeploymentState) -> str:
    return state.value.replace("_", " ")
