"""`edgewright rollouts`: bring a version to the fleet in waves, and halt when too few devices run it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import click

from edgewright.command_line import duration, print_json, print_table, share
from edgewright.commands.cloud_options import cloud_options, label, moment
from edgewright.contracts.messages import DeploymentState, RolloutRecord, RolloutRequest, RolloutState
from edgewright.contracts.models.known_failures import ForgiveRequest
from edgewright.contracts.names import check_name, parse_reference
from edgewright.errors import BadInputError, OperationError
from edgewright.sdk import CloudClient

_STOPPED = frozenset({RolloutState.HALTED, RolloutState.ABORTED})


@click.group("rollouts")
def group() -> None:
    """Roll a version out in guarded waves."""


@group.command("create")
@click.argument("model", metavar="MODEL[:VERSION]")
@click.option("--workload", default="", help="Workload that gets it; a device's other ones stay. [default: the model's name]")
@click.option("--device", "devices", multiple=True, help="Only these devices, in this order (repeat for more). [default: all]")
@click.option("--label", "labels", type=label, multiple=True, help="Only devices with this label (repeat for more).")
@click.option("--waves", default="1,25%,100%", show_default=True, help="Devices that have been offered it after each wave.")
@click.option(
    "--success-threshold", type=share, default="100%", show_default=True, help="Share of a wave that must be running it."
)
@click.option("--soak", "soak_s", type=duration, default="0s", show_default=True, help="Time that a passed wave is watched.")
@click.option("--trial", "trial_s", type=duration, default="60s", show_default=True, help="Trial period on each device.")
@click.option(
    "--device-timeout",
    "device_timeout_s",
    type=duration,
    default="1h",
    show_default=True,
    help="Silence that counts as a failure.",
)
@click.option("--keep-on-halt", is_flag=True, help="Let devices that run the version keep it when the rollout is halted.")
@cloud_options
def create(
    model: str,
    workload: str,
    devices: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    waves: str,
    success_threshold: float,
    soak_s: float,
    trial_s: float,
    device_timeout_s: float,
    keep_on_halt: bool,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Start a rollout of a version (default: the newest)."""
    reference = parse_reference(model)
    request = RolloutRequest(
        model=reference.name,
        version=reference.version,
        workload=check_name(workload, "workload") if workload else "",
        devices=tuple(check_name(device, "device") for device in devices),
        labels=dict(labels),
        waves=tuple(wave.strip() for wave in waves.split(",")),
        success_threshold=success_threshold,
        soak_s=soak_s,
        trial_s=trial_s,
        device_timeout_s=device_timeout_s,
        rollback_on_halt=not keep_on_halt,
    )
    with CloudClient.connect(cloud) as client:
        if reference.alias is not None:
            request = replace(request, version=client.model_version(reference).version)
        record = client.create_rollout(request)
    if as_json:
        print_json(record)
        return
    _print_record(record)
    click.echo(f"next: edgewright rollouts watch {record.rollout}")


@group.command("list")
@cloud_options
def list_rollouts(cloud: str | None, as_json: bool) -> None:
    """List every rollout, newest first."""
    with CloudClient.connect(cloud) as client:
        records = client.rollouts()
    if as_json:
        print_json(records)
        return
    columns = ("rollout", "version", "workload", "state", "wave", "running", "devices", "created", "reason")
    print_table(columns, [_row(record) for record in records])


@group.command("show")
@click.argument("rollout", type=click.IntRange(min=1))
@cloud_options
def show(rollout: int, cloud: str | None, as_json: bool) -> None:
    """Show one rollout, device by device."""
    _act(lambda client: client.rollout(rollout), cloud, as_json)


@group.command("watch")
@click.argument("rollout", type=click.IntRange(min=1))
@cloud_options
def watch(rollout: int, cloud: str | None, as_json: bool) -> None:
    """Follow a rollout until it ends; the exit code is 1 for a halted or aborted one."""
    with CloudClient.connect(cloud) as client:
        printed = ""
        for record in client.watch_rollout(rollout):
            line = summary(record)
            if not as_json and line != printed:
                click.echo(line)
            printed = line
    if as_json:
        print_json(record)
    if record.state in _STOPPED:
        raise OperationError(f"rollout {record.rollout} of {_version(record)} was {record.state}: {record.reason}")


@group.command("pause")
@click.argument("rollout", type=click.IntRange(min=1))
@cloud_options
def pause(rollout: int, cloud: str | None, as_json: bool) -> None:
    """Pause a rollout: no further device is offered the version."""
    _act(lambda client: client.pause_rollout(rollout), cloud, as_json)


@group.command("resume")
@click.argument("rollout", type=click.IntRange(min=1))
@cloud_options
def resume(rollout: int, cloud: str | None, as_json: bool) -> None:
    """Resume a paused rollout."""
    _act(lambda client: client.resume_rollout(rollout), cloud, as_json)


@group.command("abort")
@click.argument("rollout", type=click.IntRange(min=1))
@cloud_options
def abort(rollout: int, cloud: str | None, as_json: bool) -> None:
    """Abort a rollout: open offers are withdrawn, devices that run the version keep it."""
    _act(lambda client: client.abort_rollout(rollout), cloud, as_json)


@group.command("forgive")
@click.argument("model", metavar="MODEL:VERSION")
@click.option("--profile", help="Only this hardware profile. [default: all]")
@cloud_options
def forgive(model: str, profile: str | None, cloud: str | None, as_json: bool) -> None:
    """Allow a version again on hardware on which it is known to fail."""
    reference = parse_reference(model)
    if reference.version is None:  # an alias may move between two looks
        raise BadInputError(f"forgive needs a version, such as {reference.name}:2, but {model} has none")
    request = ForgiveRequest(model=reference.name, version=reference.version, profile=profile)
    with CloudClient.connect(cloud) as client:
        removed = client.forgive(request)
    if as_json:
        print_json(removed)
        return
    for failure in removed:
        click.echo(f"forgiven: {model} on {failure.profile} ({failure.reason})")
    if not removed:
        click.echo(f"nothing to forgive: {model} is not known to fail on any hardware profile")


def summary(record: RolloutRecord) -> str:
    """Return the progress of a rollout in one line."""
    return (
        f"rollout {record.rollout}  {_version(record)}{_as_workload(record)}  {record.state}  wave {_wave(record)}  "
        f"{_running(record)} of {len(record.devices)} running  {record.reason}"
    )


def _act(action: Callable[[CloudClient], RolloutRecord], cloud: str | None, as_json: bool) -> None:
    with CloudClient.connect(cloud) as client:
        record = action(client)
    if as_json:
        print_json(record)
    else:
        _print_record(record)


def _print_record(record: RolloutRecord) -> None:
    click.echo(summary(record))
    rows = [(device.wave + 1, device.device, _words(device.state), device.reason or None) for device in record.devices]
    print_table(("wave", "device", "state", "reason"), rows)


def _row(record: RolloutRecord) -> tuple[object, ...]:
    return (
        record.rollout,
        _version(record),
        record.workload,
        record.state.value,
        _wave(record),
        _running(record),
        len(record.devices),
        moment(record.created_at),
        record.reason,
    )


def _version(record: RolloutRecord) -> str:
    return f"{record.model}:{record.version}"


def _as_workload(record: RolloutRecord) -> str:
    return "" if record.workload == record.model else f" as {record.workload}"


def _wave(record: RolloutRecord) -> str:
    return f"{record.wave + 1}/{1 + max((device.wave for device in record.devices), default=0)}"


def _running(record: RolloutRecord) -> int:
    return Counter(device.state for device in record.devices)[DeploymentState.RUNNING]


def _words(state: DeploymentState | None) -> str | None:
    return state and state.value.replace("_", " ")
