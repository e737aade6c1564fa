"""Files of the commands: manifests without an editor's key, and connection strings, which contain a secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgewright.contracts import wire
from edgewright.errors import BadInputError, NotFoundError


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the JSON object of a manifest; raise `NotFoundError` or `BadInputError` if it cannot be read."""
    document = wire.decode(read(path), dict[str, Any], what=str(path), error=BadInputError)
    document.pop("$schema", None)  # editors write it; the hub refuses it
    return document


def read(path: Path) -> bytes:
    """Return the content of a file; raise `NotFoundError` or `BadInputError` if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise BadInputError(f"{path} must be a readable file: {error.strerror}") from None


def connection_string(path: Path | None, variable: str) -> str:
    """Return the text of a file, or of a variable of the environment; raise `BadInputError` without both."""
    if path is not None:
        return read(path).decode("utf-8", "replace").strip()
    text = os.environ.get(variable, "")
    if not text:
        raise BadInputError(f"a connection string must be in a file, or in the environment as {variable}, but neither exists")
    return text
