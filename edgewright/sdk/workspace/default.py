"""The workspace of a script that names none: the one used last in this process, else the configured or embedded cloud.

Azure's SDK takes it from the run that the script belongs to.
"""

from __future__ import annotations

from typing import Any

from edgewright.sdk.workspace.workspace import Workspace


def workspace_or_default(workspace: Workspace | None) -> Workspace:
    """Return `workspace`, or for None a workspace of the current folder."""
    return Workspace() if workspace is None else workspace


def said(text: str, **values: Any) -> None:
    """Print a line of progress, as Azure's SDK does in a notebook."""
    print(text.format(**values))  # noqa: T201  an answer to the caller of a notebook
