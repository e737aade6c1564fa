"""List the files of a job, in the order of their paths; files and folders that start with `.` or `_` are not data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewright.batch.job import InputKind
from edgewright.errors import BadInputError

PARQUET, CSV, ARROW = "parquet", "csv", "arrow"
_FORMATS = {".parquet": PARQUET, ".pq": PARQUET, ".csv": CSV, ".arrow": ARROW, ".feather": ARROW, ".ipc": ARROW}


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the input."""

    path: str
    size_bytes: int
    changed_ns: int
    """Time of the last change, as the file system states it."""


def format_of(path: str) -> str | None:
    """Return the table format of a file by its suffix; None for any other file."""
    return _FORMATS.get(Path(path).suffix.lower())


def list_inputs(given: Sequence[str], *, outside: Path) -> list[InputFile]:
    """Return the files in the given files and folders; those of the output folder `outside` are left out.

    Raises:
        BadInputError: a path does not exist, or nothing was found.
    """
    files = [_described(path) for text in given for path in _files_in(text, outside)]
    if not files:
        raise BadInputError(f"the input must have at least one file, but {', '.join(given)} has no data")
    return files


def kind_of(files: Sequence[InputFile], asked: InputKind) -> InputKind:
    """Return the kind of the input: that of the job, or `table` if every file has the suffix of a table.

    Raises:
        BadInputError: the job asks for tables, and a file has another suffix; or the tables have several formats.
    """
    formats = {format_of(file.path) for file in files}
    if asked is InputKind.AUTO:
        asked = InputKind.FILES if None in formats else InputKind.TABLE
    if asked is InputKind.FILES:
        return asked
    other = next((file.path for file in files if format_of(file.path) is None), None)
    if other is not None:
        raise BadInputError(f"{other} must be a table ({', '.join(_FORMATS)}): convert it, or use kind: files")
    if len(formats) > 1:
        raise BadInputError(f"all tables of a job must have one format, but there are {', '.join(sorted(map(str, formats)))}")
    return asked


def _files_in(text: str, outside: Path) -> Iterator[str]:
    path = Path(text)
    if path.is_file():
        yield text
    elif path.is_dir():
        for folder, names, files in os.walk(path):
            names[:] = sorted(name for name in names if _is_data(name) and (Path(folder) / name).resolve() != outside)
            yield from (str(Path(folder) / name) for name in sorted(files) if _is_data(name))
    else:
        raise BadInputError(f"{text} must be a file or folder to score, but it does not exist")


def _is_data(name: str) -> bool:
    return not name.startswith((".", "_"))


def _described(path: str) -> InputFile:
    try:
        found = Path(path).stat()
    except OSError:  # a broken link: it counts as an unreadable file
        return InputFile(path, 0, 0)
    return InputFile(path, found.st_size, found.st_mtime_ns)
