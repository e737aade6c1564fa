"""Send files to a repository of the registry that holds no model; only files that the cloud lacks are sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgewright.contracts.models.registration import FILE_TYPE, MAX_FILES, SourceFile
from edgewright.contracts.oci import Descriptor, describe_file
from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk.connection import Connection
from edgewright.sdk.transfer.uploads import Progress, has_blob, upload

_LEFT_OUT = "__pycache__"


def files_of_source(folder: Path) -> list[tuple[str, Path]]:
    """Return the relative paths and the files of a folder with a script, sorted.

    Hidden files and folders are left out: `.git`, `.venv`, and `.edgewright` with the token of an embedded cloud.

    Raises:
        NotFoundError: there is no such folder.
        BadInputError: the folder is empty, has over 1,000 files, or a link that leads out of it.
    """
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder; a script's source is a folder")
    found = []
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") or part == _LEFT_OUT for part in relative.parts) or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            raise BadInputError(f"{folder} must hold its own files, but {relative} is a link that leads out of it: copy the file")
        found.append((relative.as_posix(), path))
    if not 0 < len(found) <= MAX_FILES:
        raise BadInputError(f"{folder} must hold 1 to {MAX_FILES} files, not {len(found)}: name the folder of the script")
    return found


def push_files(
    connection: Connection, repository: str, files: Sequence[tuple[str, Path]], on_progress: Progress
) -> tuple[SourceFile, ...]:
    """Send files, each under its relative path; return them as a request names them."""
    pushed = []
    total = sum(path.stat().st_size for _, path in files)
    sent = 0
    for relative, path in files:
        described = describe_file(path, FILE_TYPE)
        descriptor = Descriptor(mediaType=FILE_TYPE, digest=described.digest, size=described.size)
        if not has_blob(connection, repository, descriptor):
            for _ in upload(connection, repository, descriptor, path):
                pass
        sent += described.size
        on_progress(sent, total)
        pushed.append(SourceFile(path=relative, digest=described.digest, size=described.size))
    return tuple(pushed)
