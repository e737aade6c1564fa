"""The files of a model reference (`models:NAME[:VERSION|@ALIAS]`) for commands that take a path."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgewright.commands.cloud_options import transfer_progress
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.names import parse_reference
from edgewright.sdk import CloudClient


@contextlib.contextmanager
def provide_model(reference: str, content: str) -> Iterator[Path]:
    """Yield what a model reference stands for, downloaded and verified; it is removed when the block ends.

    The cloud is that of EDGEWRIGHT_CLOUD, else of `~/.config/edgewright/client.json`.

    Args:
        reference: `models:NAME`, `models:NAME:VERSION` or `models:NAME@ALIAS`.
        content: `source`, the model file or folder; `files`, the folder of all source files; `package`, the package as a layout
            directory, or the model file or folder of a version without a package.

    Raises:
        NotFoundError: there is no such version, or it has no such content.
    """
    name = parse_reference(reference)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        with CloudClient.connect() as client:
            version = client.model_version(name)
            path = _download(client, version, content, Path(folder) / version.model)
        yield path


def _download(client: CloudClient, version: ModelVersion, content: str, target: Path) -> Path:
    with transfer_progress("downloading") as on_progress:
        if content == "package" and version.variants:
            client.pull_package(version, target, on_progress=on_progress)
            return target
        client.download_model(version, target, on_progress=on_progress)
    if content == "files":
        return target
    if len(version.files) == 1:
        return target / version.files[0].path
    from edgewright.try_model import find_model

    return find_model(target)
