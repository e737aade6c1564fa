"""Shared by the commands of the hub: `--state`, the client of the hub, and JSON arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgewright.errors import BadInputError

if TYPE_CHECKING:
    from cloud.iothub.client import HubClient

DEFAULT_STATE = Path("~/.local/share/edgewright/iothub")
F = TypeVar("F", bound=Callable[..., Any])


def state_option(command: F) -> F:
    """Add `--state` to a command."""
    return click.option(
        "--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True, help="State directory of the hub."
    )(command)


def connect(state: Path) -> HubClient:
    """Return the client of the hub of a state directory."""
    from cloud.iothub.client import HubClient

    return HubClient.connect(state)


def json_argument(text: str) -> Any:
    """Return the value of a JSON argument; raise `BadInputError` if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInputError(f"the argument must be JSON, as in '{{\"interval\": 5}}', not {text[:80]!r}: {error}") from error
