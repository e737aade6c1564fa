"""A datastore: a folder that scripts upload files to and download them from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgewright.contracts.files import writing_atomically
from edgewright.errors import BadInputError, NotFoundError


class Datastore:
    """A folder of a workspace. Paths in it are relative and use `/`."""

    def __init__(self, root: Path, name: str = "workspaceblobstore") -> None:
        self.root = root
        self.name = name

    def upload(self, src_dir: str, target_path: str | None = None, overwrite: bool = False, show_progress: bool = True) -> Path:
        """Copy all files below a folder to `target_path`; return the folder in the datastore.

        Raises:
            NotFoundError: there is no such folder.
            BadInputError: a file exists and `overwrite` is False, or `target_path` leaves the datastore.
        """
        if not Path(src_dir).is_dir():
            raise NotFoundError(f"{src_dir}: no such folder to upload")
        files = sorted(str(path) for path in Path(src_dir).rglob("*") if path.is_file())
        return self.upload_files(files, src_dir, target_path, overwrite, show_progress)

    def upload_files(
        self,
        files: Sequence[str],
        relative_root: str | None = None,
        target_path: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> Path:
        """Copy files to `target_path`, each under its path below `relative_root` (default: their common folder)."""
        for file in files:
            if not Path(file).is_file():
                raise NotFoundError(f"{file}: no such file to upload")
        base = Path(relative_root or os.path.commonpath([Path(file).resolve().parent for file in files])).resolve()
        target = self._inside(target_path or "")
        pairs = [(Path(file), target / Path(file).resolve().relative_to(base)) for file in files]
        copied = _copy(pairs, overwrite=overwrite)
        if show_progress:
            print(f"Uploaded {copied} files")  # noqa: T201  an answer to the caller of a notebook
        return target

    def download(self, target_path: str, prefix: str | None = None, overwrite: bool = False, show_progress: bool = True) -> int:
        """Copy all files whose path begins with `prefix` to the folder `target_path`; return their number."""
        found = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        names = [path.relative_to(self.root).as_posix() for path in found]
        pairs = [
            (path, Path(target_path) / name) for path, name in zip(found, names, strict=True) if name.startswith(prefix or "")
        ]
        copied = _copy(pairs, overwrite=overwrite)
        if show_progress:
            print(f"Downloaded {copied} files")  # noqa: T201
        return copied

    def path(self, path: str = "") -> Path:
        """Return the place of a path of the datastore on this machine."""
        return self._inside(path)

    def _inside(self, path: str) -> Path:
        place = (self.root / path).resolve()
        if not place.is_relative_to(self.root.resolve()):
            raise BadInputError(f"a path in a datastore must stay below it, but {path!r} does not")
        return place


def _copy(pairs: Iterable[tuple[Path, Path]], *, overwrite: bool) -> int:
    pairs = list(pairs)
    existing = [target for _, target in pairs if target.exists()]
    if existing and not overwrite:
        raise BadInputError(f"{existing[0]} exists already: set overwrite=True, or choose another target")
    for source, target in pairs:
        with source.open("rb") as stream, writing_atomically(target) as written:
            shutil.copyfileobj(stream, written)
    return len(pairs)
