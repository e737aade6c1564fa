"""Register source files as a model version, and download them.

Only files that the cloud lacks are sent. The version becomes visible in the last step.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.files import staging_beside
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.registration import (
    FILE_TYPE,
    RegisterRequest,
    Registration,
    SourceFile,
    check_relative,
    files_of,
    source_documents,
)
from edgewright.contracts.names import check_name
from edgewright.contracts.oci import (
    EMPTY_BLOB,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    TITLE,
    Descriptor,
    descriptor_of,
)
from edgewright.contracts.samples import Tensors, read_npz
from edgewright.errors import BadInputError, NotFoundError, OperationError
from edgewright.sdk.connection import Connection
from edgewright.sdk.pushing import put_manifest
from edgewright.sdk.transfer.downloads import fetch_blob
from edgewright.sdk.transfer.uploads import Progress, has_blob, upload
from edgewright.sdk.trying import SampleOptions, try_model


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A model version to register: the files by their paths in it, its facts, and its golden sample (inputs, outputs)."""

    files: tuple[tuple[str, Path], ...]
    registration: Registration
    golden: tuple[Path, ...] = ()


def register(
    connection: Connection,
    name: str,
    paths: Sequence[Path],
    registration: Registration,
    *,
    sample: SampleOptions | None = None,
    keeps_name: bool = False,
    on_progress: Progress,
) -> ModelVersion:
    """Register a file, a folder, or several, as the next version of a model; with `sample`, after running it once.

    A single folder keeps its own name in the version only with `keeps_name`.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: the folder is empty, or holds too many files, or the model fails on its sample.
    """
    check_name(name, "model")
    files = tuple(files_of(paths, keeps_name=keeps_name))
    if sample is None:
        return push_version(connection, name, NewVersion(files=files, registration=registration), on_progress=on_progress)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        model = paths[0] if len(paths) == 1 else _side_by_side(files, Path(folder) / "model")
        tried = try_model(model, registration, sample, Path(folder))
        version = NewVersion(files=files, registration=tried.registration, golden=tried.golden)
        return push_version(connection, name, version, on_progress=on_progress)


def _side_by_side(files: Sequence[tuple[str, Path]], folder: Path) -> Path:
    """Return a folder with the files as they will be in the version; links cost no space."""
    for name, source in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
    return folder


def push_version(connection: Connection, name: str, version: NewVersion, *, on_progress: Progress) -> ModelVersion:
    """Push the files that the cloud lacks, then register them as the next version of a model."""
    documents = source_documents(version.files, version.golden)
    sources = [*(source for _, source in version.files), *version.golden]
    missing = [
        (described, source)
        for described, source in zip((*documents.files, *documents.golden), sources, strict=True)
        if not has_blob(connection, name, _descriptor(described))
    ]
    total, sent = sum(described.size for described, _ in missing), 0
    on_progress(sent, total)
    for described, source in missing:
        for size in upload(connection, name, _descriptor(described), source):
            sent += size
            on_progress(sent, total)
    _push_empty_config(connection, name)
    put_manifest(connection, name, documents.manifest_descriptor, documents.manifest, MANIFEST_TYPE)
    put_manifest(connection, name, documents.index_descriptor, documents.index, INDEX_TYPE)
    request = RegisterRequest(index=documents.index_descriptor, registration=version.registration)
    response = connection.request(
        "POST", f"/v1/models/{name}/register", body=wire.encode(request), headers={"Content-Type": "application/json"}
    )
    return wire.decode(response.body, ModelVersion, what="the registered version", error=OperationError)


def download(connection: Connection, version: ModelVersion, target: Path, *, on_progress: Progress) -> Path:
    """Write the source files of a version into a new folder `target`; every byte is verified.

    Raises:
        NotFoundError: the version holds no source files.
        BadInputError: `target` exists already.
        OperationError: a file that was sent differs from its digest.
    """
    if not version.files:
        raise NotFoundError(f"{version.model}:{version.version} must hold source files, but only a package was published")
    if target.exists() or target.is_symlink():
        raise BadInputError(f"{target} must not exist yet: choose another folder, or remove it")
    total, received = sum(file.size for file in version.files), 0
    with staging_beside(target) as staging:
        for file in version.files:
            destination = staging / check_relative(file.path)
            destination.parent.mkdir(parents=True, exist_ok=True)
            fetch_blob(connection, version.model, _descriptor(file), destination)
            received += file.size
            on_progress(received, total)
        os.rename(staging, target)  # noqa: PTH104 - a folder that appears meanwhile is not replaced
    return target


def golden_sample(connection: Connection, version: ModelVersion) -> tuple[Tensors, Tensors] | None:
    """Return the inputs and the outputs of a version's golden sample; None if it was registered without one."""
    if not version.golden:
        return None
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        paths = [Path(folder) / check_relative(file.path) for file in version.golden]
        for file, path in zip(version.golden, paths, strict=True):
            fetch_blob(connection, version.model, _descriptor(file), path)
        inputs, outputs = map(read_npz, paths)
    return inputs, outputs


def _push_empty_config(connection: Connection, name: str) -> None:
    config = descriptor_of(EMPTY_BLOB, EMPTY_TYPE)
    if not has_blob(connection, name, config):
        headers = {"Content-Type": "application/octet-stream"}
        connection.request(
            "POST", f"/v2/{name}/blobs/uploads/", query={"digest": config.digest}, body=EMPTY_BLOB, headers=headers
        )


def _descriptor(file: SourceFile) -> Descriptor:
    return Descriptor(mediaType=FILE_TYPE, digest=file.digest, size=file.size, annotations={TITLE: file.path})
