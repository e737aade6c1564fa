"""`edgewright devices`: the devices of the fleet, the version that each runs, and why."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import click

from edgewright.command_line import duration, print_json, print_table
from edgewright.commands.cloud_options import cloud_options, label, labels_text, moment
from edgewright.contracts.connection.benchmarks import BenchmarkResult
from edgewright.contracts.connection.enrolment import TokenRequest
from edgewright.contracts.messages import DeploymentState, DesiredState, DeviceRecord, ReportedWorkload
from edgewright.contracts.names import check_name
from edgewright.errors import BadInputError
from edgewright.sdk import CloudClient


@dataclass(frozen=True, slots=True)
class DeviceWorkload:
    """A workload of a device: what the cloud desires of it, and what the device reports about it."""

    name: str
    desired: DesiredState | None
    reported: ReportedWorkload | None


def workloads_of(record: DeviceRecord) -> list[DeviceWorkload]:
    """Return the workloads of a device, desired or reported, sorted by name."""
    desired = {} if record.desired is None else {one.workload: one for one in record.desired.every_workload}
    reported = record.reported
    names = set(desired)
    if reported is not None and reported.workloads is not None:
        names |= {one.workload for one in reported.workloads}
    elif reported is not None and reported.running is not None and not names:  # an agent that knows one workload
        names = {reported.running.model}
    return [DeviceWorkload(name, desired.get(name), reported.of(name) if reported else None) for name in sorted(names)]


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
    columns = ("device", "profile", "online", "workload", "running", "variant", "state", "labels", "reason")
    print_table(columns, [row for device in devices for row in _rows(device)])


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
    rows: list[tuple[str, object]] = [
        ("device", record.device),
        ("profile", record.profile or None),
        ("labels", labels_text(record.labels)),
        ("online", _online(record)),
        ("enrolled", moment(record.enrolled_at)),
        ("last seen", record.last_seen_at and moment(record.last_seen_at)),
        ("agent", reported and reported.agent_version),
        ("telemetry", f"{record.telemetry_count:,} measurements"),
    ]
    for each in workloads_of(record):
        report = each.reported
        rows += [
            ("workload", each.name),
            ("desired", _desired(each.desired)),
            ("running", _running(report)),
            ("state", _state(each)),
            ("pulled", report and f"{report.bytes_pulled:,} bytes for desired state {report.desired_number}"),
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


@group.command("remove-workload")
@click.argument("device")
@click.argument("workload")
@cloud_options
def remove_workload(device: str, workload: str, cloud: str | None, as_json: bool) -> None:
    """Remove a workload of a device: it stops, and its slots are freed; the others continue."""
    check_name(device, "device")
    check_name(workload, "workload")
    with CloudClient.connect(cloud) as client:
        record = client.remove_workload(device, workload)
    if as_json:
        print_json(record)
        return
    left = [each.name for each in workloads_of(record) if each.desired is not None]
    click.echo(f"{record.device} removes {workload}; it keeps {', '.join(left) or 'no workload'}")


@group.command("benchmarks")
@click.argument("model", required=False)
@click.option("--forget", is_flag=True, help="Delete those of MODEL, so that the next device measures again.")
@cloud_options
def benchmarks(model: str | None, forget: bool, cloud: str | None, as_json: bool) -> None:
    """List the times of variants that devices with the same machine share."""
    if model is not None:
        check_name(model, "model")
    elif forget:
        raise BadInputError("--forget must have a model: edgewright devices benchmarks MODEL --forget")
    with CloudClient.connect(cloud) as client:
        results = client.forget_benchmarks(model) if forget and model is not None else client.benchmarks(model)
    if as_json:
        print_json(results)
    elif forget:
        click.echo(f"deleted {len(results)} of {model}: the next device of each kind of machine measures again")
    else:
        columns = ("machine", "model", "variant", "median ms", "fastest", "measured by", "at", "reason")
        print_table(columns, [row for result in results for row in _times(result)])


def _times(result: BenchmarkResult) -> Iterator[tuple[object, ...]]:
    """Yield one row per variant, the fastest first, and those that could not be measured last."""
    before, after = (result.fingerprint, f"{result.model}:{result.version}"), (result.device, moment(result.measured_at))
    for variant, median_ms in sorted(result.median_ms.items(), key=lambda each: each[1]):
        yield *before, variant, f"{median_ms:.3f}", "yes" if variant == result.fastest else None, *after, None
    for variant, reason in sorted(result.failures.items()):
        yield *before, variant, None, None, *after, reason


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
    workloads = workloads_of(record)
    if not workloads:
        yield "desired   nothing yet; edgewright rollouts create requests a version"
    for each in workloads:
        if len(workloads) > 1 or each.desired is None or each.name != each.desired.model:
            yield f"workload  {each.name}"
        yield from _explain_workload(each, online=record.online)


def _shared_identity(at: datetime) -> str:
    return (
        f"used by two agents in turns, last at {moment(at)}: a state directory was copied; "
        "stop the copy and enrol it under a name of its own"
    )


def _explain_workload(each: DeviceWorkload, *, online: bool) -> Iterator[str]:
    desired, reported = each.desired, each.reported
    yield f"desired   {_desired(desired) or 'nothing; the device removes it'}"
    yield f"running   {_running(reported) or 'nothing'}"
    state = _words(reported.state) if reported and reported.state else "idle"
    if desired is not None and (reported is None or reported.desired_number < desired.desired_number):
        yield f"state     offered: {'no report yet' if online else 'sent when the device is back online'}"
        if reported is not None:
            yield f"before    {state}: {reported.reason or 'no reason given'}"
        return
    assert reported is not None, "a workload is desired or reported"
    yield f"state     {state}, since {moment(reported.since)}, attempt {reported.attempt}"
    yield f"reason    {reported.reason or 'none given'}"
    yield f"next      {_next(reported)}"
    if reported.choice:
        yield "why this variant"
        yield from (f"          {sentence}" for sentence in reported.choice)


def _next(reported: ReportedWorkload) -> str:
    if reported.next_retry_at is not None:
        return f"next attempt at {moment(reported.next_retry_at)}"
    if reported.state is None or reported.state.is_final:
        return "nothing, until another version is desired"
    return "continues automatically"


def _fetch(device: str, cloud: str | None) -> DeviceRecord:
    check_name(device, "device")
    with CloudClient.connect(cloud) as client:
        return client.device(device)


def _rows(record: DeviceRecord) -> list[tuple[object, ...]]:
    """Return one row per workload; a device without one has a row as well."""
    device = (record.device, record.profile or None, _online(record))
    rows: list[tuple[object, ...]] = []
    for each in workloads_of(record):
        report = each.reported
        running = report.running if report else None
        version = running and f"{running.model}:{running.version}"
        variant = running and running.variant
        reason = (report and report.reason) or None
        rows.append((*device, each.name, version, variant, _state(each), labels_text(record.labels), reason))
    reason = (record.reported and record.reported.reason) or None
    return rows or [(*device, None, None, None, None, labels_text(record.labels), reason)]


def _online(record: DeviceRecord) -> str:
    if record.revoked:
        return "revoked"
    return "online" if record.online else "offline"


def _desired(desired: DesiredState | None) -> str | None:
    return None if desired is None else f"{desired.model}:{desired.version} (desired state {desired.desired_number})"


def _running(report: ReportedWorkload | None) -> str | None:
    running = report.running if report else None
    if running is None:
        return None
    return f"{running.model}:{running.version}, variant {running.variant} ({running.precision}) on {running.backend}"


def _state(each: DeviceWorkload) -> str | None:
    """Return the state of the current desired state, not of an earlier one."""
    desired, reported = each.desired, each.reported
    if desired is not None and (reported is None or reported.desired_number < desired.desired_number):
        return _words(DeploymentState.OFFERED)
    return _words(reported.state) if reported and reported.state else None


def _words(state: DeploymentState) -> str:
    return state.value.replace("_", " ")
