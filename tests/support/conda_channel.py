"""A conda channel in a folder: tiny packages, indexed by py-rattler as a channel's owner does it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def conda_package(
    channel: Path, name: str, version: str, files: Mapping[str, bytes], *, depends: Sequence[str] = (), subdir: str = "noarch"
) -> None:
    """Write a package in conda's first format: a tar with its files and their description below info/."""
    described = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": list(depends), "subdir": subdir}
    described |= {"noarch": "generic"} if subdir == "noarch" else {}
    paths = [
        {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(raw).hexdigest(), "size_in_bytes": len(raw)}
        for path, raw in files.items()
    ]
    members = {
        **files,
        "info/index.json": json.dumps(described).encode(),
        "info/paths.json": json.dumps({"paths_version": 1, "paths": paths}).encode(),
        "info/files": "\n".join(files).encode(),
    }
    (channel / subdir).mkdir(parents=True, exist_ok=True)
    with tarfile.open(channel / subdir / f"{name}-{version}-0.tar.bz2", "w:bz2") as tar:
        for path, raw in members.items():
            header = tarfile.TarInfo(path)
            header.size = len(raw)
            tar.addfile(header, io.BytesIO(raw))


def index(channel: Path) -> None:
    """Write the channel's repodata."""
    from rattler.index import index_fs

    (channel / "noarch").mkdir(exist_ok=True)
    asyncio.run(index_fs(channel))
