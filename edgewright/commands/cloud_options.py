"""What the commands that talk to a cloud share: `--cloud`, how durations, shares, labels and moments are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from edgewright.command_line import common_options

F = TypeVar("F", bound=Callable[..., Any])

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def cloud_options(command: F) -> F:
    """Add `--cloud` (parameter `cloud`) to the options of every command."""
    help_text = "client.json, its directory, or a URL. [default: $EDGEWRIGHT_CLOUD, else ~/.config/edgewright/client.json]"
    return common_options(click.option("--cloud", metavar="PATH_OR_URL", help=help_text)(command))


def duration(text: str) -> float:
    """Read a number with its unit, as in 30s, 5m, 1h or 2d; return seconds."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd])", text)
    if not found:
        raise click.BadParameter(f"must be a number and a unit, as in 30s, 5m, 1h or 2d, not {text!r}")
    return float(found[1]) * _UNITS_S[found[2]]


def share(text: str) -> float:
    """Read a share, as in 95%; return a fraction of 1."""
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text)
    if not found or float(found[1]) > 100:
        raise click.BadParameter(f"must be a share from 0% to 100%, as in 95%, not {text!r}")
    return float(found[1]) / 100


def label(text: str) -> tuple[str, str]:
    """Read a label, as in site=plant-2; return its name and its text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"must be a name and a text, as in site=plant-2, not {text!r}")
    return name, value


def labels_text(labels: dict[str, str]) -> str | None:
    """Return labels as one text, None when there are none."""
    return " ".join(f"{name}={text}" for name, text in sorted(labels.items())) or None


def moment(instant: datetime) -> str:
    """Return an instant for people."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def size_text(size_bytes: int) -> str:
    """Return a size for people."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
