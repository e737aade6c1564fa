"""A package: one version of a model as an OCI image index with a manifest per variant.

Writing gives the same bytes for the same build directory: no paths, sorted keys, and no times except `SOURCE_DATE_EPOCH`. A
variant that fits several architectures has one manifest and one descriptor per architecture, so that `skopeo`, `oras` and
container engines find it on each of them.

    write_package(build, layout, …)   build directory -> layout
    read_package(layout)              layout -> Package
    verify_blobs(layout, package)     every byte against its digest
    opened(path)                      a layout from a directory or from one tar of it
    unpack_variant(layout, …)         one variant -> a variant directory
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.environments.file_layers import copy_file, file_of, place_of, write_file_layer
from edgewright.contracts.files import write_atomically, writing_atomically
from edgewright.contracts.models.registration import SOURCE_TYPE
from edgewright.contracts.names import Digest, check_name, nearest
from edgewright.contracts.oci import (
    EMPTY_BLOB,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    REF_NAME,
    BlobSource,
    Descriptor,
    Index,
    Manifest,
    OciLayout,
    Platform,
    descriptor_of,
    encode_document,
)
from edgewright.contracts.variant import CONFIG_FILE, LayerKind, VariantConfig, VariantDirectory
from edgewright.errors import NotFoundError, PackageError

PACKAGE_TYPE = "application/vnd.edgewright.package.v1+json"
VARIANT_TYPE = "application/vnd.edgewright.variant.v1+json"
CONFIG_TYPE = "application/vnd.edgewright.variant.config.v1+json"
SIGNATURE_TYPE = "application/vnd.edgewright.signature.v1+json"
ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"

NAME = "dev.edgewright.name"
SOURCE_DIGEST = "dev.edgewright.source.digest"
SOURCE_VERSION = "dev.edgewright.source.version"
"""Annotation of an index entry of source files: the number of the version that they were registered as."""
CREATED = "org.opencontainers.image.created"
VARIANT = "dev.edgewright.variant"
BACKEND = "dev.edgewright.backend"
PRECISION = "dev.edgewright.precision"
PROFILES = "dev.edgewright.profiles"


@dataclass(frozen=True, slots=True)
class _TypedDocument:
    """The fields of an index or manifest that state its type; other tools may leave out either."""

    artifactType: str | None = None  # noqa: N815  the field's name on the wire
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class PackagedVariant:
    """One variant of a package: its descriptor, manifest and verified config."""

    descriptor: Descriptor
    manifest: Manifest
    config: VariantConfig

    @property
    def layers(self) -> Mapping[LayerKind, Descriptor]:
        """The files by kind, without those of unknown kinds; `file_layers.place_of` gives the place of each in the registry."""
        kinds = {kind.media_type: kind for kind in LayerKind}
        files = map(file_of, self.manifest.layers)
        return {kinds[file.mediaType]: file for file in files if file.mediaType in kinds}

    def blobs(self) -> tuple[Descriptor, ...]:
        """Return every blob of this variant: manifest, config, layers."""
        return (self.descriptor, self.manifest.config, *self.manifest.layers)


@dataclass(frozen=True, slots=True)
class Package:
    """A package with its verified index, manifests and configs."""

    descriptor: Descriptor
    index: Index
    variants: tuple[PackagedVariant, ...]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.index.annotations[NAME]

    @property
    def digest(self) -> Digest:
        """The digest of the index, which identifies the package."""
        return Digest(self.descriptor.digest)

    def variant(self, name: str) -> PackagedVariant:
        """Return the variant called `name`; raise `NotFoundError` with the nearest names."""
        variants = {variant.config.variant: variant for variant in self.variants}
        if name not in variants:
            raise NotFoundError(f"package {self.name} has no variant {name!r}{nearest(name, variants)}")
        return variants[name]

    def blobs(self) -> tuple[Descriptor, ...]:
        """Return every blob of the package except the index, each once, in a fixed order."""
        unique = {blob.digest: blob for variant in self.variants for blob in variant.blobs()}
        return tuple(unique[digest] for digest in sorted(unique))


def read_index(source: BlobSource, descriptor: Descriptor) -> Package:
    """Read a package from `source` by the descriptor of its index.

    Raises:
        PackageError: a document is missing, damaged or does not follow the contract.
    """
    raw = source.read_blob(descriptor)
    index = wire.decode(raw, Index, what=f"package index {descriptor.digest}", error=PackageError)
    if index.artifactType not in (PACKAGE_TYPE, None):
        raise PackageError(f"a package's index must have artifactType {PACKAGE_TYPE}, not {index.artifactType}")
    if NAME not in index.annotations:
        raise PackageError(f"a package's index must have the annotation {NAME}")
    check_name(index.annotations[NAME], "model")
    unique = {entry.digest: entry for entry in index.manifests if entry.artifactType != SOURCE_TYPE}
    bare = replace(descriptor, artifactType=PACKAGE_TYPE, platform=None, annotations={})
    return Package(bare, index, tuple(_read_variant(source, entry) for entry in unique.values()))


def read_package(layout: OciLayout) -> Package:
    """Return the package in a layout; raise `PackageError` unless there is exactly one."""
    indexes = {entry.digest: entry for entry in _entries_of_type(layout, PACKAGE_TYPE)}  # two tags may name one package
    if len(indexes) != 1:
        raise PackageError(f"{layout.path} must hold one package, but it holds {len(indexes)}")
    return read_index(layout, *indexes.values())


def index_with_source(package: Package, source: Descriptor, version: int) -> bytes:
    """Return the index of a package with the manifest of its source files, so that one version number covers both.

    Args:
        package: the package.
        source: the descriptor of the manifest of source files.
        version: the number that they were registered as.
    """
    entry = replace(source, annotations={SOURCE_VERSION: str(version)})
    return encode_document(replace(package.index, manifests=(*package.index.manifests, entry)))


def source_entry(index: Index) -> Descriptor | None:
    """Return the entry of the source files in the index of a version, or None."""
    return next((entry for entry in index.manifests if entry.artifactType == SOURCE_TYPE), None)


def verify_blobs(layout: OciLayout, package: Package) -> None:
    """Compare every blob of a package with its digest; raise `PackageError` at the first that differs."""
    for blob in package.blobs():
        layout.check_blob(blob)


def write_package(
    build: BuildDirectory,
    layout: OciLayout,
    *,
    name: str,
    profiles: Mapping[str, Sequence[str]],
    platforms: Mapping[str, Sequence[Platform]],
    annotations: Mapping[str, str] | None = None,
) -> Package:
    """Write the variants of `build` that have an entry in `profiles` into `layout`, and return the package.

    Args:
        build: the build directory.
        layout: an empty layout.
        name: the model's name.
        profiles: for each variant, the hardware profiles that it fits.
        platforms: for each variant, the platforms of those profiles.
        annotations: the user's annotations of the index.

    Raises:
        PackageError: the build has no variant, or a variant fits no profile.
    """
    check_name(name, "model")
    variants = [variant for variant in build.variants() if variant.config.variant in profiles]
    if not variants:
        raise PackageError(f"{build.path} has no variant to pack; 'edgewright quantize' adds some")
    entries: list[Descriptor] = []
    for variant in variants:
        config = replace(variant.config, profiles=tuple(sorted(profiles[variant.config.variant])))
        if not config.profiles:
            raise PackageError(f"variant {config.variant} fits no hardware profile; leave it out or add a profile")
        entries.extend(_write_variant(layout, build, variant, config, platforms[config.variant], name))
    created = {CREATED: _source_date()} if "SOURCE_DATE_EPOCH" in os.environ else {}
    index = Index(
        artifactType=PACKAGE_TYPE,
        manifests=tuple(entries),
        annotations={**(annotations or {}), NAME: name, SOURCE_DIGEST: build.source_digest(), **created},
    )
    descriptor = layout.write_document(index)
    layout.write_index(Index(manifests=(replace(descriptor, annotations={REF_NAME: name}),)))
    return read_index(layout, descriptor)


def signature_manifest(envelope: bytes, subject: Descriptor) -> Manifest:
    """Return the manifest that attaches a signature envelope to a package as an OCI referrer."""
    bare = Descriptor(mediaType=subject.mediaType, digest=subject.digest, size=subject.size)
    return Manifest(
        artifactType=SIGNATURE_TYPE,
        config=descriptor_of(EMPTY_BLOB, EMPTY_TYPE),
        layers=(descriptor_of(envelope, ENVELOPE_TYPE, title="signature.dsse.json"),),
        subject=bare,
    )


def attach_signature(layout: OciLayout, package: Package, envelope: bytes) -> None:
    """Store a signature in the layout; it replaces older ones."""
    layout.write_blob(EMPTY_BLOB, EMPTY_TYPE)
    layout.write_blob(envelope, ENVELOPE_TYPE)
    descriptor = layout.write_document(signature_manifest(envelope, package.descriptor))
    older = {entry.digest for entry in _entries_of_type(layout, SIGNATURE_TYPE)}
    kept = tuple(entry for entry in layout.read_index().manifests if entry.digest not in older)
    layout.write_index(Index(manifests=(*kept, descriptor)))


def signatures(layout: OciLayout, package: Package) -> tuple[bytes, ...]:
    """Return the signature envelopes that the layout holds for `package`."""
    envelopes = []
    for entry in signature_entries(layout):
        manifest = wire.decode(layout.read_blob(entry), Manifest, what="signature manifest", error=PackageError)
        if manifest.subject is not None and manifest.subject.digest == package.digest and manifest.layers:
            envelopes.append(layout.read_blob(manifest.layers[0]))
    return tuple(envelopes)


def signature_entries(layout: OciLayout) -> tuple[Descriptor, ...]:
    """Return the manifests of the signatures in a layout."""
    return tuple(_entries_of_type(layout, SIGNATURE_TYPE))


def _entries_of_type(layout: OciLayout, artifact_type: str) -> list[Descriptor]:
    """Return the entries of a layout with this type.

    Container tools leave out the optional artifactType of an entry, so the type is then read from the document itself.
    """
    entries = layout.read_index().manifests
    return [entry for entry in entries if (entry.artifactType or _type_of_document(layout, entry)) == artifact_type]


def _type_of_document(layout: OciLayout, entry: Descriptor) -> str | None:
    """Return the type that a document states, or that of a package for an index with a model's name; None if it is unknown."""
    if entry.mediaType not in (INDEX_TYPE, MANIFEST_TYPE) or not layout.has_blob(entry):
        return None
    document = wire.decode(layout.read_blob(entry), _TypedDocument, what=f"document {entry.digest}", error=PackageError)
    is_named = entry.mediaType == INDEX_TYPE and NAME in (document.annotations or {})
    return document.artifactType or (PACKAGE_TYPE if is_named else None)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[OciLayout]:
    """Yield the layout at `path`: a layout directory, or one tar of it, which is unpacked to a temporary directory."""
    if path.is_dir():
        yield OciLayout.open(path)
        return
    if not path.is_file():
        raise NotFoundError(f"{path}: no such package; it must be an OCI layout directory or a tar of one")
    with tempfile.TemporaryDirectory(prefix="edgewright-") as unpacked:
        unpack_tar(path, Path(unpacked))
        yield OciLayout.open(Path(unpacked))


def unpack_variant(layout: OciLayout, packaged: PackagedVariant, target: Path) -> VariantDirectory:
    """Copy one variant's config and layers into the directory `target`, after checking every byte.

    Raises:
        PackageError: a blob is missing or changed.
        StorageFullError: the disk is full; the caller removes the partial directory.
    """
    for kind, file in packaged.layers.items():
        blob = layout.blob_path(place_of(file)[0])
        if not blob.is_file():
            raise PackageError(f"blob sha256:{blob.name} is missing from {layout.path}: the package is incomplete")
        with writing_atomically(target / kind.file_name) as copy:
            copy_file(blob, file, copy)
    write_atomically(target / CONFIG_FILE, layout.read_blob(packaged.manifest.config))
    return VariantDirectory.open(target)


def write_tar(layout: OciLayout, target: Path) -> None:
    """Write a layout as one tar, sorted and without times and owners, so that the same layout gives the same bytes."""
    members = sorted(path for path in layout.path.rglob("*") if path.is_file())
    with writing_atomically(target) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in members:
            entry = tarfile.TarInfo(path.relative_to(layout.path).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)


def unpack_tar(path: Path, target: Path) -> None:
    """Unpack the tar of a layout into the directory `target`; a layout has regular files and directories only.

    The filters of `tarfile` are not used, because Debian 12 has Python 3.11.2, which lacks them.

    Raises:
        PackageError: the file is not a tar, ends too early, or has a link, a device or a path outside.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                _unpack_member(tar, member, target)
    except (tarfile.TarError, EOFError) as error:
        raise PackageError(f"{path} is not a package: it must be an OCI layout directory or a tar of one: {error}") from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    inside = PurePosixPath(member.name)
    if inside.is_absolute() or ".." in inside.parts or not (member.isreg() or member.isdir()):
        raise tarfile.TarError(f"{member.name} must be a file or directory inside the tar")
    place = target / inside
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None, "a regular file has content"
    with content, place.open("wb") as copy:
        shutil.copyfileobj(content, copy)


def _read_variant(source: BlobSource, entry: Descriptor) -> PackagedVariant:
    raw = source.read_blob(entry)
    manifest = wire.decode(raw, Manifest, what=f"variant manifest {entry.digest}", error=PackageError)
    raw_config = source.read_blob(manifest.config)
    config = wire.decode(raw_config, VariantConfig, what=f"variant config {manifest.config.digest}", error=PackageError)
    return PackagedVariant(entry, manifest, config)


def _write_variant(
    layout: OciLayout,
    build: BuildDirectory,
    variant: VariantDirectory,
    config: VariantConfig,
    platforms: Sequence[Platform],
    name: str,
) -> list[Descriptor]:
    files = {kind: variant.file(kind) for kind in variant.layers()}
    for kind in (LayerKind.GOLDEN_INPUTS, LayerKind.GOLDEN_OUTPUTS):
        if (build.graph / kind.file_name).is_file():
            files[kind] = build.graph / kind.file_name
    layers = [write_file_layer(layout, path, kind.media_type, model=name) for kind, path in files.items()]
    config_blob = layout.write_blob(wire.encode(config), CONFIG_TYPE)
    descriptor = layout.write_document(Manifest(artifactType=VARIANT_TYPE, config=config_blob, layers=tuple(layers)))
    annotations = {
        VARIANT: config.variant,
        BACKEND: config.backend,
        PRECISION: config.precision.value,
        PROFILES: ",".join(config.profiles),
    }
    unique = sorted({(platform.os, platform.architecture) for platform in platforms})
    return [
        replace(descriptor, platform=Platform(os=os_name, architecture=architecture), annotations=annotations)
        for os_name, architecture in unique
    ]


def _source_date() -> str:
    """Return `SOURCE_DATE_EPOCH` (https://reproducible-builds.org/specs/source-date-epoch/) as RFC 3339."""
    text = os.environ["SOURCE_DATE_EPOCH"]
    if not text.isdigit():
        raise PackageError(f"SOURCE_DATE_EPOCH must be whole seconds since 1970, not {text!r}")
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
