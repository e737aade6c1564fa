"""Registered models: source files as the author saved them, with what is known about them.

The files of a version are layers of one manifest in the version's OCI index, each under its path in the registered folder, so
that `oras pull` gets them too. A version may hold source files, a package, or both.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edgewright.contracts import wire
from edgewright.contracts.names import check_name
from edgewright.contracts.oci import (
    EMPTY_BLOB,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    TITLE,
    Descriptor,
    Index,
    Manifest,
    describe_file,
    descriptor_of,
    encode_document,
)
from edgewright.contracts.variant import LayerKind, TensorSpec
from edgewright.errors import BadInputError, NotFoundError

MODEL_TYPE = "application/vnd.edgewright.model.v1+json"
"""Artifact type of the index of a version that holds source files only."""
SOURCE_TYPE = "application/vnd.edgewright.source.v1+json"
"""Artifact type of the manifest that lists source files."""
FILE_TYPE = "application/octet-stream"
GOLDEN_TYPES = (LayerKind.GOLDEN_INPUTS.media_type, LayerKind.GOLDEN_OUTPUTS.media_type)
"""Media types of the layers with the sample that the model was run on."""
MAX_FILES = 1000
MAX_LABELS = 64


class Framework(enum.StrEnum):
    """The library that a model was saved with."""

    SKLEARN = "sklearn"
    ONNX = "onnx"
    TENSORFLOW = "tensorflow"
    KERAS = "keras"
    LIGHTGBM = "lightgbm"
    XGBOOST = "xgboost"
    PYTORCH = "pytorch"
    CUSTOM = "custom"


NEED_A_SCRIPT = (Framework.PYTORCH, Framework.CUSTOM)
"""Frameworks whose models are served by an entry script only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One registered file: its path below the registered folder, in POSIX notation."""

    path: str
    digest: str
    size: int

    def __post_init__(self) -> None:
        check_relative(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Facts about a registered model. Tags may be replaced; properties are only added."""

    framework: Framework = Framework.CUSTOM
    framework_version: str = ""
    description: str = ""
    cpu: float | None = None
    """Processors that scoring with it needs."""
    memory_gb: float | None = None
    run: str = ""
    """Id of the run that trained it."""
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    """Inputs of the model, or the columns of its table (shape `[N]`); empty if they are not known."""
    outputs: tuple[TensorSpec, ...] = ()

    def __post_init__(self) -> None:
        for name in ("cpu", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e6:
                raise BadInputError(f"{name} must be a positive number, not {value:g}")
        for labels in (self.tags, self.properties):
            _check_tags(labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterRequest:
    """Request to make a pushed index of source files the next version: POST /v1/models/{model}/register."""

    index: Descriptor
    registration: Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRequest:
    """Request to let an alias name a version: PUT /v1/models/{model}/aliases/{alias}."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NextVersion:
    """Number that the next version of a model gets."""

    version: int


@dataclass(frozen=True, slots=True)
class SourceDocuments:
    """The index and the manifest of registered files, as they are pushed."""

    index: bytes
    manifest: bytes
    files: tuple[SourceFile, ...]
    golden: tuple[SourceFile, ...] = ()

    @property
    def index_descriptor(self) -> Descriptor:
        """The descriptor of the index."""
        return descriptor_of(self.index, INDEX_TYPE, artifact_type=MODEL_TYPE)

    @property
    def manifest_descriptor(self) -> Descriptor:
        """The descriptor of the manifest."""
        return descriptor_of(self.manifest, MANIFEST_TYPE, artifact_type=SOURCE_TYPE)


def check_alias(alias: str) -> str:
    """Return `alias`; raise `BadInputError` if it is not a name, or a number, which would look like a version."""
    if alias.isdigit():
        raise BadInputError(f"an alias must not be a number, because numbers are versions, but {alias!r} is")
    return check_name(alias, "alias")


def _check_tags(labels: dict[str, str]) -> None:
    """Raise `BadInputError` for more than 64 tags or properties, or for a name or value over 256 characters."""
    if len(labels) > MAX_LABELS:
        raise BadInputError(f"a version may have at most {MAX_LABELS} tags and as many properties, not {len(labels)}")
    for name, value in labels.items():
        if not 0 < len(name) <= 256 or len(value) > 256:
            raise BadInputError(
                f"a tag or property must have at most 256 characters in name and value, but {name[:32]!r} has more"
            )


def check_relative(path: str) -> str:
    """Return a path of a registered file; raise `BadInputError` if it could leave the folder that it is written to."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or re.search(r"[\x00-\x1f\\]", path) or len(path) > 1000:
        raise BadInputError(f"the path of a registered file must stay below its folder, but {path[:100]!r} does not")
    return path


def files_below(path: Path) -> list[tuple[str, Path]]:
    """Return the relative paths and the files of a model that is one file or a folder, sorted.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: the folder is empty, has over 1,000 files, or a link that leads out of it.
    """
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise NotFoundError(f"{path}: no such file; a model is a file or a folder")
    found = [(each.relative_to(path).as_posix(), each) for each in sorted(path.rglob("*")) if each.is_file()]
    root = path.resolve()
    leaving = [name for name, each in found if not each.resolve().is_relative_to(root)]
    if leaving:
        raise BadInputError(f"{path} must hold its own files, but {leaving[0]} is a link that leads out of it: copy the file")
    if not 0 < len(found) <= MAX_FILES:
        raise BadInputError(f"{path} must hold 1 to {MAX_FILES} files, not {len(found)}")
    return found


def files_of(paths: Sequence[Path], *, keeps_name: bool = False) -> list[tuple[str, Path]]:
    """Return the relative paths and the files of a model that is one file, a folder, or several of them side by side.

    A folder among several paths keeps its name; a single one only with `keeps_name`.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: two paths have one name, or as for `files_below`.
    """
    if len(paths) == 1 and not keeps_name:
        return files_below(paths[0])
    names = [path.resolve().name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not paths:
        raise BadInputError(
            f"the files of a model must have different names, but {twice[0] if twice else 'no file'} is given twice"
        )
    found = []
    for name, path in zip(names, paths, strict=True):
        below = files_below(path)
        found += [(f"{name}/{inner}", file) for inner, file in below] if path.is_dir() else [(name, path)]
    if len(found) > MAX_FILES:
        raise BadInputError(f"a model must have 1 to {MAX_FILES} files, not {len(found)}")
    return found


def source_documents(files: Sequence[tuple[str, Path]], golden: Sequence[Path] = ()) -> SourceDocuments:
    """Describe files as the manifest and index of a version; the files are read once, for their digests.

    Args:
        files: path in the version, and file.
        golden: the golden sample: its inputs, then its outputs; empty without one.
    """
    layers = [_layer(path, FILE_TYPE, name) for name, path in files]
    layers += [_layer(path, media_type, path.name) for path, media_type in zip(golden, GOLDEN_TYPES, strict=False)]
    manifest = encode_document(
        Manifest(config=descriptor_of(EMPTY_BLOB, EMPTY_TYPE), layers=tuple(layers), artifactType=SOURCE_TYPE)
    )
    entry = descriptor_of(manifest, MANIFEST_TYPE, artifact_type=SOURCE_TYPE)
    index = encode_document(Index(manifests=(entry,), artifactType=MODEL_TYPE))
    return SourceDocuments(index, manifest, tuple(source_files(layers)), tuple(golden_files(layers)))


def source_files(layers: Sequence[Descriptor]) -> Iterator[SourceFile]:
    """Yield the files that the layers of a source manifest describe, without the golden sample."""
    for layer in layers:
        if layer.mediaType not in GOLDEN_TYPES:
            yield _file_of(layer)


def source_digests(files: Sequence[SourceFile]) -> frozenset[str]:
    """Return the digests by which a build may name its source: of each file, of each folder, and of all files.

    The digest of a folder covers the sorted paths in it with their digests, as `edgewright convert` computes it.
    """
    digests = {file.digest for file in files}
    folders = {parent for file in files for parent in PurePosixPath(file.path).parents}
    for folder in folders:
        inside = [(PurePosixPath(file.path).relative_to(folder), file.digest) for file in files if _is_in(file, folder)]
        digests.add(wire.digest_of(b"".join(f"{path}\0{digest}\n".encode() for path, digest in sorted(inside))))
    return frozenset(digests)


def _is_in(file: SourceFile, folder: PurePosixPath) -> bool:
    return folder in PurePosixPath(file.path).parents


def golden_files(layers: Sequence[Descriptor]) -> Iterator[SourceFile]:
    """Yield the inputs and the outputs of the golden sample, or nothing."""
    for layer in layers:
        if layer.mediaType in GOLDEN_TYPES:
            yield _file_of(layer)


def _file_of(layer: Descriptor) -> SourceFile:
    return SourceFile(path=layer.annotations.get(TITLE, ""), digest=layer.digest, size=layer.size)


def _layer(path: Path, media_type: str, name: str) -> Descriptor:
    described = describe_file(path, media_type)
    return Descriptor(
        mediaType=media_type, digest=described.digest, size=described.size, annotations={TITLE: check_relative(name)}
    )
