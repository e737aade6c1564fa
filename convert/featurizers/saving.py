"""Save a network and its notes (preprocessing, head layers) as one `.keras` file.

A `.keras` file is a zip archive. Keras reads its own members by name and ignores others, so the notes are an additional member.
"""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

from convert.featurizers.networks import BuiltNetwork, NetworkNotes
from edgewright.contracts import wire
from edgewright.contracts.files import followed, staging_beside
from edgewright.errors import BadInputError, ModelError

NOTES_MEMBER = "edgewright.json"
_MAX_NOTES_BYTES = 1 << 20


def save_network(built: BuiltNetwork, path: Path) -> None:
    """Write model and notes to `path` atomically.

    Raises:
        BadInputError: the name does not end in `.keras`, which Keras requires for this format.
    """
    if path.suffix != ".keras":
        raise BadInputError(f"{path}: the output must end in .keras")
    with staging_beside(path) as staging:
        written = staging / path.name
        built.model.save(written)
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(zipfile.ZipInfo(NOTES_MEMBER), wire.encode(dataclasses.asdict(built.notes)))
        written.replace(followed(path))


def read_notes(path: Path) -> NetworkNotes | None:
    """Return the notes in a `.keras` file, or None; Keras is not needed.

    Raises:
        ModelError: the file is not an archive, or its notes cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if NOTES_MEMBER not in archive.namelist():
                return None
            if archive.getinfo(NOTES_MEMBER).file_size > _MAX_NOTES_BYTES:
                raise ModelError(f"{path}: {NOTES_MEMBER} must be at most {_MAX_NOTES_BYTES} bytes")
            raw = archive.read(NOTES_MEMBER)
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a .keras file: {error}") from error
    return wire.decode(raw, NetworkNotes, what=f"{path}: {NOTES_MEMBER}", error=ModelError)
