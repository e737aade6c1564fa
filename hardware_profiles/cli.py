"""`edgewright profiles`: list, show, detect and check hardware profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgewright.command_line import common_options, print_json, print_table
from edgewright.contracts import wire
from edgewright.errors import EdgewrightError
from hardware_profiles.catalog import load_profile, read_profile, shipped_profiles
from hardware_profiles.detect import Detection, Machine, read_machine
from hardware_profiles.detect import detect as detect_profile
from hardware_profiles.hardware_profile import HardwareProfile
from hardware_profiles.processors import usable_processors


@click.group()
def group() -> None:
    """Describe hardware, detect this machine's, check your own."""


@group.command("list")
@common_options
def list_profiles(as_json: bool) -> None:
    """List the profiles that come with edgewright."""
    profiles = shipped_profiles()
    if as_json:
        print_json(profiles)
        return
    headings = ("profile", "architecture", "cores", "memory MiB", "precisions (best first)", "backends")
    print_table(headings, [_row(profile) for profile in profiles])


@group.command()
@click.argument("name")
@common_options
def show(name: str, as_json: bool) -> None:
    """Show one profile: a shipped one by NAME, or your own by the path of its file."""
    profile = load_profile(name)
    if as_json:
        print_json({**_plain(profile), "npu_hash": profile.npu.hash.hex() if profile.npu else None})
        return
    print_table(("field", "value"), _fields(profile))


@group.command()
@common_options
def detect(as_json: bool) -> None:
    """Describe this machine and name the profile that fits it best."""
    detection = detect_profile(read_machine(), shipped_profiles())
    if as_json:
        print_json(_as_json(detection))
        return
    name = detection.profile.name if detection.profile else "none of the shipped ones"
    click.echo(f"{_describe(detection.machine)}\nprofile: {name}\n")
    for sentence in detection.sentences:
        click.echo(f"  {sentence}")


@group.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@common_options
@click.pass_context
def check(context: click.Context, files: Sequence[Path], as_json: bool) -> None:
    """Check profiles of your own; the exit code is 2 if any FILE is not valid."""
    results = [(str(path), *_check(path)) for path in files]
    if as_json:
        print_json([{"file": path, "profile": name, "error": error} for path, name, error in results])
    else:
        for path, name, error in results:
            click.echo(f"edgewright: {error}" if error else f"{path}: profile {name} is valid", err=bool(error))
    if any(error for _, _, error in results):
        context.exit(2)


def _check(path: Path) -> tuple[str | None, str | None]:
    """Return (profile name, None) for a valid profile, else (None, error message)."""
    try:
        return read_profile(path).name, None
    except EdgewrightError as error:
        return None, str(error)


def _row(profile: HardwareProfile) -> tuple[object, ...]:
    return (
        profile.name,
        profile.architecture.value,
        profile.cpu_cores,
        profile.memory_mib,
        " ".join(profile.precisions),
        " ".join(profile.backends),
    )


def _plain(profile: HardwareProfile) -> dict[str, object]:
    plain: dict[str, object] = wire.to_plain(profile)
    return plain


def _fields(profile: HardwareProfile) -> list[tuple[str, object]]:
    """Return the profile's fields as (name, value) rows; fields of tables get dotted names, lists are joined."""
    rows: list[tuple[str, object]] = []
    for name, value in _plain(profile).items():
        if isinstance(value, dict):
            rows += [(f"{name}.{inner}", content) for inner, content in value.items()]
        else:
            rows.append((name, ", ".join(value) or None if isinstance(value, list | tuple) else value))
    if profile.npu:
        rows.append(("npu.hash", profile.npu.hash.hex()))
    return rows


def _as_json(detection: Detection) -> dict[str, object]:
    machine = detection.machine
    return {
        "profile": detection.profile.name if detection.profile else None,
        "machine": {
            "architecture": machine.architecture,
            "cpu_model": machine.cpu_model,
            "cpu_cores": machine.cpu_cores,
            "memory_mib": machine.memory_mib,
            "board": machine.board,
            "isa_extensions": sorted(machine.isa_extensions),
        },
        "sentences": detection.sentences,
    }


def _describe(machine: Machine) -> str:
    board = f", {machine.board}" if machine.board else ""
    cores = "1 core" if machine.cpu_cores == 1 else f"{machine.cpu_cores} cores"
    usable = usable_processors()
    cores += f" ({usable} usable by this process)" if usable < machine.cpu_cores else ""
    return f"machine: {machine.cpu_model} ({machine.architecture}), {cores}, {machine.memory_mib} MiB of memory{board}"
