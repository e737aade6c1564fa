"""`edgewright bench`: measure on this machine, or let devices of the fleet measure a published version."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from accel.bench_cli import command as measure_here
from edgewright.command_line import duration, print_json, print_table
from edgewright.commands.cloud_options import cloud_options, label
from edgewright.contracts.connection.benchmark_jobs import BenchmarkJobDevice, BenchmarkJobRecord, BenchmarkJobRequest, JobState
from edgewright.contracts.names import check_name, parse_reference
from edgewright.errors import BadInputError, OperationError
from edgewright.sdk import CloudClient

_DEVICE_COLUMNS = ("device", "state", "variant", "median ms", "fastest", "measured by", "reason")
_MACHINE_COLUMNS = ("machine", "variant", "median ms", "fastest", "measured by", "devices")
_LOCAL_OPTIONS: dict[str, click.Parameter] = {
    str(each.name): each
    for each in measure_here.params
    if isinstance(each, click.Option) and each.expose_value and each.name != "as_json"
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """Options for devices of the fleet; without any of them, `bench` measures on this machine."""

    devices: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    every: bool
    budget_mb: float | None
    budget_s: float | None
    again: bool
    no_wait: bool
    job: int | None
    cancel: int | None
    cloud: str | None

    @property
    def selects(self) -> bool:
        """True if devices are selected for a new job."""
        return bool(self.devices or self.labels or self.every)


@click.command("bench", params=list(_LOCAL_OPTIONS.values()))
@click.argument("path", metavar="MODEL|BUILD|PACKAGE|NAME:VERSION", required=False)
@click.option("--device", "devices", multiple=True, help="Measure on this device of the fleet (repeat for more).")
@click.option("--group", "labels", type=label, multiple=True, help="Measure on devices with this label (repeat for more).")
@click.option("--all", "every", is_flag=True, help="Measure on all devices.")
@click.option("--budget-mb", type=float, help="Most megabytes that a device pulls; default: no limit.")
@click.option("--budget", "budget_s", type=duration, help="Longest time on a device; default: 10m.")
@click.option("--again", is_flag=True, help="Measure on machines that have results already.")
@click.option("--no-wait", is_flag=True, help="Return at once; devices may be offline.")
@click.option("--job", type=click.IntRange(min=1), help="Show this job, and wait for it.")
@click.option("--cancel", type=click.IntRange(min=1), metavar="JOB", help="Cancel this job.")
@cloud_options
def command(path: str | None, as_json: bool, **options: Any) -> None:
    """Measure latency, throughput and memory, here or on devices.

    MODEL is any .onnx file, BUILD a build directory, PACKAGE a layout directory or a tar file of it. Every variant runs in its
    own process: warm-up until the times are stable, then single timed runs. A benchmark of all variants and backends, whose times
    are cached, first finds the fastest.

    With --device, --group or --all, devices of the fleet measure the published version NAME:VERSION, each kind of machine once.
    """
    local = {name: options.pop(name) for name in _LOCAL_OPTIONS}
    remote = RemoteOptions(**options)
    is_remote = remote.selects or remote.job is not None or remote.cancel is not None
    _check(path, remote, is_remote=is_remote)
    if is_remote:
        _measure_there(path, remote, as_json=as_json)
        return
    assert path is not None
    assert measure_here.callback is not None
    measure_here.callback(path=Path(path), as_json=as_json, **local)


def _check(path: str | None, remote: RemoteOptions, *, is_remote: bool) -> None:
    ways = bool(remote.devices), bool(remote.labels), remote.every, remote.job is not None, remote.cancel is not None
    if sum(ways) > 1:
        raise BadInputError("bench takes one of --device, --group, --all, --job and --cancel, but got several")
    if is_remote and (path is None) == remote.selects:
        rule = "name the version to measure, as in digits:3" if remote.selects else "have no version with --job or --cancel"
        raise BadInputError(f"bench must {rule}")
    context = click.get_current_context()
    given = [name for name in _LOCAL_OPTIONS if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if is_remote and given:
        option = _LOCAL_OPTIONS[given[0]].opts[0]
        raise BadInputError(f"{option} must be left out on devices: their settings decide; it applies to this machine only")
    only_remote = remote.budget_mb is not None or remote.budget_s is not None or remote.again or remote.no_wait
    if only_remote and not remote.selects and not (remote.no_wait and remote.job is not None):
        raise BadInputError("--budget-mb, --budget, --again and --no-wait must come with --device, --group or --all")
    if not is_remote and path is None:
        raise BadInputError("bench must have a model file, a build directory or a package, or NAME:VERSION with --device")


def _measure_there(path: str | None, remote: RemoteOptions, *, as_json: bool) -> None:
    request = _request(path, remote) if path is not None else None
    with CloudClient.connect(remote.cloud) as client:
        if remote.cancel is not None:
            record = client.cancel_benchmark_job(remote.cancel)
        elif request is not None:
            record = client.create_benchmark_job(_with_version(request, str(path), client))
        else:
            record = client.benchmark_job(remote.job or 0)
        if remote.cancel is None and not remote.no_wait:
            record = _wait(client, record)
    if as_json:
        print_json(record)
    else:
        _print(record)
    if record.is_finished and all(each.state is JobState.FAILED for each in record.devices):
        raise OperationError(f"job {record.job} must have a result, but all of its devices failed: {record.devices[0].reason}")


def _request(text: str, remote: RemoteOptions) -> BenchmarkJobRequest:
    reference = parse_reference(text)
    request = BenchmarkJobRequest(
        model=reference.name,
        version=reference.version,
        devices=tuple(dict.fromkeys(check_name(each, "device") for each in remote.devices)),
        labels=dict(remote.labels),
        budget_bytes=None if remote.budget_mb is None else round(remote.budget_mb * 1_000_000),
        again=remote.again,
        wait_for_offline=remote.no_wait,
    )
    return request if remote.budget_s is None else replace(request, budget_s=remote.budget_s)


def _with_version(request: BenchmarkJobRequest, text: str, client: CloudClient) -> BenchmarkJobRequest:
    """Resolve an alias, as in digits@stable."""
    reference = parse_reference(text)
    return request if reference.alias is None else replace(request, version=client.model_version(reference).version)


def _wait(client: CloudClient, record: BenchmarkJobRecord) -> BenchmarkJobRecord:
    """Wait for the devices that are online; on a terminal, show a line after every change."""
    shown = ""
    for latest in client.watch_benchmark_job(record.job):
        record, line = latest, _summary(latest)
        if sys.stderr.isatty() and line != shown:
            click.echo(line, err=True)
        shown = line
    return record


def _summary(record: BenchmarkJobRecord) -> str:
    counts = Counter(each.state for each in record.devices)
    return f"job {record.job}: " + ", ".join(f"{counts[state]} {state}" for state in JobState if counts[state])


def _print(record: BenchmarkJobRecord) -> None:
    click.echo(f"job {record.job}: {record.model}:{record.version} on {len(record.devices)} devices")
    print_table(_DEVICE_COLUMNS, [row for each in record.devices for row in _device_rows(each)])
    machines = list(_machine_rows(record))
    if machines:
        click.echo("")
        print_table(_MACHINE_COLUMNS, machines)
    if not record.is_finished:
        click.echo(f"next: edgewright bench --job {record.job}, or edgewright bench --cancel {record.job}")


def _device_rows(device: BenchmarkJobDevice) -> Iterator[tuple[object, ...]]:
    """Yield one row per variant of a device: the fastest first, then those without a time."""
    before = (device.device, device.state.value)
    result = device.result
    if result is None:
        yield *before, None, None, None, None, device.reason
        return
    for variant, median_ms in sorted(result.median_ms.items(), key=lambda each: each[1]):
        yield *before, variant, f"{median_ms:.3f}", _mark(variant == result.fastest), result.device, device.reason
    for variant, reason in sorted({**result.failures, **device.left_out}.items()):
        yield *before, variant, None, None, None, reason


def _machine_rows(record: BenchmarkJobRecord) -> Iterator[tuple[object, ...]]:
    """Yield one row per kind of machine and variant."""
    results = {each.result.basis: each.result for each in record.devices if each.result is not None}
    counts = Counter(each.result.basis for each in record.devices if each.result is not None)
    for basis, result in sorted(results.items(), key=lambda each: (each[1].fingerprint, each[0])):
        for variant, median_ms in sorted(result.median_ms.items(), key=lambda each: each[1]):
            mark = _mark(variant == result.fastest)
            yield result.fingerprint, variant, f"{median_ms:.3f}", mark, result.device, counts[basis]


def _mark(is_fastest: bool) -> str | None:
    return "yes" if is_fastest else None
