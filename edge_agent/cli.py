"""`edgewright agent`: enrol this device, run its agent, and ask what it does, online or not."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from accel.npu.link.discovery import DEVICE_VARIABLE
from edge_agent.agent import Agent
from edge_agent.settings import ChooseBy, TransportChoice, default_state_directory, load_settings
from edge_agent.state_directory import entered
from edge_agent.status import Standing, read_standing
from edge_agent.storage.variant_times import VariantTimes, forget, in_ms
from edgewright.command_line import common_options, print_json, print_table
from edgewright.errors import NotFoundError

THREADS = 4
"""Blocking exchanges at a time: a long-poll, a report, telemetry, a probe. Each thread costs memory."""

_state = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where the agent keeps its state (default: ~/.local/state/edgewright/agent).",
)


@click.group()
def group() -> None:
    """Enrol, run and inspect the agent of this device."""


@group.command()
@click.option(
    "--token", required=True, envvar="EDGEWRIGHT_ENROLMENT_TOKEN", help="The token that 'edgewright devices token' made."
)
@click.option("--name", "device", required=True, help="The device's name.")
@click.option("--profile", help="The hardware profile (default: detected).")
@_state
@common_options
def enrol(token: str, device: str, profile: str | None, state: Path | None, as_json: bool) -> None:
    """Make this machine a member of the fleet; its private key is made here and stays here."""
    # Here and not above, because the agent that stays shall not hold what is needed once.
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
@click.option("--port", type=click.IntRange(0, 65535), help="Score on this port of 127.0.0.1 (0: any free one).")
@click.option("--transport", type=click.Choice([choice.value for choice in TransportChoice]), help="How to reach the cloud.")
@click.option("--choose", type=click.Choice([by.value for by in ChooseBy]), help="Which variant of those that fit to take.")
@common_options
def run(state: Path | None, port: int | None, transport: str | None, choose: str | None, as_json: bool) -> None:
    """Run the agent until it is told to end; it scores whatever ran last, with or without its cloud."""
    path = state or default_state_directory()
    settings = load_settings(path, port=port, transport=transport, choose=choose)
    if settings.npu_device is not None:
        os.environ[DEVICE_VARIABLE] = settings.npu_device  # whoever scores or checks for this agent inherits it
    logging.getLogger("edge_agent").setLevel(min(logging.INFO, logging.getLogger().level))
    with entered(path, settings) as house:
        if as_json:
            print_json({"device": house.identity.device, "scoring_url": house.scoring_url})
        else:
            click.echo(f"{house.identity.device} scores at {house.scoring_url}")
        asyncio.run(_live(Agent(house, settings)))


@group.command()
@_state
@common_options
def status(state: Path | None, as_json: bool) -> None:
    """Show what runs, and how far the last wish of the cloud has got."""
    standing = read_standing(state or default_state_directory())
    if as_json:
        print_json(standing)
    else:
        print_table(("what", "value"), _summary(standing))


@group.command()
@_state
@common_options
def explain(state: Path | None, as_json: bool) -> None:
    """Say why the device is where it is: the reason, what comes next, why this variant, what happened before."""
    standing = read_standing(state or default_state_directory())
    if as_json:
        print_json(standing)
        return
    print_table(("what", "value"), [*_summary(standing), ("next", standing.next_step)])
    for sentence in standing.reported.choice:
        click.echo(f"  {sentence}")
    click.echo()
    if standing.measured:
        print_table(("measured", "with version", "at (UTC)", "one sample"), [_times_row(times) for times in standing.measured])
        click.echo()
    rows = [(f"{past.at:%Y-%m-%d %H:%M:%S}", past.desired_number or None, past.event, past.reason) for past in standing.history]
    print_table(("at (UTC)", "desired", "event", "reason"), rows)


@group.command()
@click.argument("model", required=False)
@_state
@common_options
def remeasure(model: str | None, state: Path | None, as_json: bool) -> None:
    """Forget which variant of MODEL (or of every model) was the fastest here: the next version is measured anew."""
    forgotten = forget(state or default_state_directory(), model)
    if as_json:
        print_json({"forgotten": forgotten})
    elif forgotten:
        click.echo(f"forgotten: {', '.join(forgotten)}. The next version is measured anew where the agent chooses by measuring")
    else:
        click.echo("nothing was measured here")


async def _live(agent: Agent) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await agent.run(stop)


def _detected_profile() -> str:
    from hardware_profiles.catalog import shipped_profiles
    from hardware_profiles.detect import detect, read_machine

    found = detect(read_machine(), shipped_profiles()).profile
    if found is None:
        raise NotFoundError("this machine must fit a shipped hardware profile, but it fits none: name one with --profile")
    return found.name


def _times_row(times: VariantTimes) -> tuple[str, int, str, str]:
    found = sorted(times.median_ms.items(), key=lambda one: (one[0] != times.fastest, one[1]))
    told = "; ".join(f"{variant} {in_ms(median_ms)}" for variant, median_ms in found)
    return times.model, times.version, f"{times.measured_at:%Y-%m-%d %H:%M:%S}", told


def _summary(standing: Standing) -> list[tuple[str, object]]:
    reported, running = standing.reported, standing.reported.running
    expires = standing.certificate_expires_at
    living = f"process {standing.pid}" if standing.agent_running else "not running"
    return [
        ("device", reported.device),
        ("profile", reported.profile),
        ("agent", living),
        ("cloud", f"{standing.url} ({standing.connection})"),
        ("certificate", f"good until {expires:%Y-%m-%d %H:%M} UTC" if expires else None),
        ("scores at", standing.scoring_url),
        (
            "runs",
            f"{running.model}:{running.version} {running.variant} on {running.backend}" if running else "nothing yet",
        ),
        ("desired", reported.desired_number or None),
        ("state", reported.state.value if reported.state else None),
        ("reason", reported.reason),
        ("since", f"{reported.since:%Y-%m-%d %H:%M:%S} UTC"),
        ("attempt", reported.attempt),
        ("next retry", f"{reported.next_retry_at:%Y-%m-%d %H:%M:%S} UTC" if reported.next_retry_at else None),
        ("pulled", f"{reported.bytes_pulled} bytes"),
        ("telemetry waiting", standing.telemetry_waiting),
    ]
