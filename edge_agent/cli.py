"""`edgewright agent`: enrol this device, run its agent and show its status, online or offline."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from accel.npu.link.discovery import DEVICE_VARIABLE
from edge_agent.agent import Agent
from edge_agent.bundle.cli import bundle
from edge_agent.packages.cli import import_
from edge_agent.settings import ChooseBy, TransportChoice, default_state_directory, load_settings
from edge_agent.state_directory import StateDirectory
from edge_agent.status import DeviceStatus, WorkloadProgress, read_status
from edge_agent.storage.variant_times import VariantTimes, format_ms, load_all, reset
from edgewright.command_line import common_options, print_json, print_table
from edgewright.errors import NotFoundError

THREADS = 4
"""Concurrent blocking requests: a long-poll, a report, telemetry, a probe. Each thread costs memory."""

_state = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=None,
    help="State directory of the agent (default: ~/.local/state/edgewright/agent).",
)


@click.group()
def group() -> None:
    """Enrol, run and inspect the agent of this device."""


@group.command()
@click.option(
    "--token", required=True, envvar="EDGEWRIGHT_ENROLMENT_TOKEN", help="Enrolment token from 'edgewright devices token'."
)
@click.option("--name", "device", required=True, help="Name of the device.")
@click.option("--profile", help="Hardware profile (default: detected).")
@_state
@common_options
def enrol(token: str, device: str, profile: str | None, state: Path | None, as_json: bool) -> None:
    """Enrol this machine in a fleet; its private key is generated here and never leaves it."""
    # Imported here, because the resident agent must not load modules that only enrolment needs.
    from edge_agent.identity.enrolment import enrol as enrol_device
    from hardware_profiles.catalog import load_profile

    name = load_profile(profile).name if profile else _detected_profile()
    identity = enrol_device(state or default_state_directory(), token_text=token, device=device, profile=name)
    if as_json:
        print_json({"device": identity.device, "profile": name, "url": identity.url})
    else:
        click.echo(f"{identity.device} is enrolled at {identity.url} as {name}. Next: edgewright agent run")


@group.command()
@_state
@click.option("--port", type=click.IntRange(0, 65535), help="Scoring port on 127.0.0.1 (0: any free port).")
@click.option("--transport", type=click.Choice([choice.value for choice in TransportChoice]), help="Transport to the cloud.")
@click.option("--choose", type=click.Choice([by.value for by in ChooseBy]), help="Rule that selects among the fitting variants.")
@common_options
def run(state: Path | None, port: int | None, transport: str | None, choose: str | None, as_json: bool) -> None:
    """Run the agent until it gets SIGTERM or SIGINT; it scores with the last version, online or offline."""
    path = state or default_state_directory()
    settings = load_settings(path, port=port, transport=transport, choose=choose)
    if settings.npu_device is not None:
        os.environ[DEVICE_VARIABLE] = settings.npu_device  # inherited by the processes that score and check
    logging.getLogger("edge_agent").setLevel(min(logging.INFO, logging.getLogger().level))
    with StateDirectory.open(path, settings) as directory:
        if as_json:
            print_json({"device": directory.identity.device, "scoring_url": directory.scoring_url})
        else:
            click.echo(f"{directory.identity.device} scores at {directory.scoring_url}")
        asyncio.run(_run_until_signal(Agent(directory, settings)))


@group.command()
@_state
@common_options
def status(state: Path | None, as_json: bool) -> None:
    """Show the running version and the progress of the desired state."""
    device_status = read_status(state or default_state_directory())
    if as_json:
        print_json(device_status)
    else:
        print_table(("field", "value"), _summary(device_status))


@group.command()
@_state
@common_options
def explain(state: Path | None, as_json: bool) -> None:
    """Explain the status: the reason, the next step, the choice of the variant, and the recent events."""
    device_status = read_status(state or default_state_directory())
    if as_json:
        print_json(device_status)
        return
    print_table(("field", "value"), _summary(device_status, with_next=True))
    for each in device_status.workloads:
        for sentence in each.reported.choice:
            click.echo(f"  {each.workload}: {sentence}" if len(device_status.workloads) > 1 else f"  {sentence}")
    click.echo()
    if device_status.measured:
        _print_times(device_status.measured)
        click.echo()
    rows = [
        (f"{past.at:%Y-%m-%d %H:%M:%S}", past.workload or None, past.desired_number or None, past.event, past.reason)
        for past in device_status.history
    ]
    print_table(("at (UTC)", "workload", "desired", "event", "reason"), rows)


@group.command()
@click.argument("model", required=False)
@click.option("--reset", "do_reset", is_flag=True, help="Delete the results on this device; those in the cloud stay.")
@_state
@common_options
def benchmark(model: str | None, do_reset: bool, state: Path | None, as_json: bool) -> None:
    """Show or reset the benchmark results of MODEL's variants (default: every model) on this device."""
    path = state or default_state_directory()
    if do_reset:
        _reset_times(path, model, as_json=as_json)
        return
    results = [times for times in load_all(path) if model in (None, times.model)]
    if as_json:
        print_json(results)
    elif results:
        _print_times(results)
    else:
        click.echo("no benchmark results")


def _reset_times(path: Path, model: str | None, *, as_json: bool) -> None:
    models = reset(path, model)
    if as_json:
        print_json({"reset": models})
    elif models:
        click.echo(
            f"reset: {', '.join(models)}. With 'choose = \"measured\"' the next version takes the times of a device with "
            "the same machine, or is benchmarked; 'edgewright devices benchmarks MODEL --forget' in the fleet deletes those times"
        )
    else:
        click.echo("no benchmark results")


group.add_command(bundle)
group.add_command(import_)


async def _run_until_signal(agent: Agent) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await agent.run(stop)


def _detected_profile() -> str:
    from hardware_profiles.catalog import shipped_profiles
    from hardware_profiles.detect import detect, read_machine

    profile = detect(read_machine(), shipped_profiles()).profile
    if profile is None:
        raise NotFoundError("a shipped hardware profile must fit this machine, but none does: choose one with --profile")
    return profile.name


def _print_times(results: Sequence[VariantTimes]) -> None:
    print_table(("measured", "with version", "at (UTC)", "by", "one sample"), [_times_row(times) for times in results])


def _times_row(times: VariantTimes) -> tuple[str, int, str, str, str]:
    fastest_first = sorted(times.median_ms.items(), key=lambda item: (item[0] != times.fastest, item[1]))
    text = "; ".join(f"{variant} {format_ms(median_ms)}" for variant, median_ms in fastest_first)
    by = times.measured_by or "this device"
    return times.model, times.version, f"{times.measured_at:%Y-%m-%d %H:%M:%S}", by, text


def _summary(device_status: DeviceStatus, *, with_next: bool = False) -> list[tuple[str, object]]:
    reported, expires = device_status.reported, device_status.certificate_expires_at
    rows: list[tuple[str, object]] = [
        ("device", reported.device),
        ("profile", reported.profile),
        ("agent", f"process {device_status.pid}" if device_status.agent_running else "not running"),
        ("cloud", f"{device_status.url} ({device_status.connection})"),
        ("certificate", f"valid until {expires:%Y-%m-%d %H:%M} UTC" if expires else None),
        ("telemetry waiting", device_status.telemetry_waiting),
        ("scores at", device_status.scoring_url),
    ]
    if not device_status.workloads:
        rows += [("running", "no model"), ("reason", reported.reason)]
    for each in device_status.workloads:
        rows += _workload_rows(each, with_next=with_next)
    return rows


def _workload_rows(each: WorkloadProgress, *, with_next: bool) -> list[tuple[str, object]]:
    reported, running = each.reported, each.reported.running
    rows: list[tuple[str, object]] = [
        ("workload", each.workload),
        ("scores at", each.scoring_url),
        ("running", f"{running.model}:{running.version} {running.variant} on {running.backend}" if running else "no model"),
        ("desired", reported.desired_number or None),
        ("state", reported.state.value if reported.state else None),
        ("reason", reported.reason),
        ("since", f"{reported.since:%Y-%m-%d %H:%M:%S} UTC"),
        ("attempt", reported.attempt),
        ("next retry", f"{reported.next_retry_at:%Y-%m-%d %H:%M:%S} UTC" if reported.next_retry_at else None),
        ("pulled", f"{reported.bytes_pulled} bytes"),
    ]
    return [*rows, ("next", each.next_step)] if with_next else rows
