"""The part of the OCI image specification 1.1 that packages use: descriptors, manifests, indexes, layout directories.

Source: https://github.com/opencontainers/image-spec (manifest.md, image-index.md, image-layout.md). A layout directory stores
every blob under its digest; after a crash a blob is whole or absent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import check_digest
from edgewright.errors import PackageError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_BLOB = b"{}"
TITLE = "org.opencontainers.image.title"
REF_NAME = "org.opencontainers.image.ref.name"

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Operating system and processor architecture in Go's names (`linux`, `amd64`, `arm64`)."""

    architecture: str
    os: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Media type, digest and size of a blob."""

    mediaType: str  # noqa: N815  the field's name on the wire
    digest: str
    size: int
    artifactType: str | None = None  # noqa: N815
    platform: Platform | None = None
    annotations: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_digest(self.digest)
        if self.size < 0:
            raise PackageError(f"a blob's size must be 0 or more, not {self.size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One artifact: a config blob, layer blobs, and what it refers to (`subject`)."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    schemaVersion: int = 2  # noqa: N815
    mediaType: str = MANIFEST_TYPE  # noqa: N815
    artifactType: str | None = None  # noqa: N815
    subject: Descriptor | None = None
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A list of manifests."""

    manifests: tuple[Descriptor, ...]
    schemaVersion: int = 2  # noqa: N815
    mediaType: str = INDEX_TYPE  # noqa: N815
    artifactType: str | None = None  # noqa: N815
    annotations: dict[str, str] = field(default_factory=dict)


class BlobSource(Protocol):
    """A source of blobs by digest: a layout directory, a registry, a device's store."""

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the verified bytes; raise `PackageError` if they are missing or differ from the descriptor."""
        ...


def encode_document(document: Manifest | Index) -> bytes:
    """Encode canonically, without absent optional fields, as the specification requires."""
    return wire.encode(_without_absent(wire.to_plain(document)))


def descriptor_of(raw: bytes, media_type: str, *, artifact_type: str | None = None, title: str | None = None) -> Descriptor:
    """Return the descriptor of bytes; `title` is the file name that generic tools unpack them to."""
    annotations = {TITLE: title} if title else {}
    return Descriptor(
        mediaType=media_type,
        digest=wire.digest_of(raw),
        size=len(raw),
        artifactType=artifact_type,
        annotations=annotations,
    )


def describe_file(path: Path, media_type: str) -> Descriptor:
    """Return the descriptor of a file, which is read in pieces; its name becomes the title."""
    hasher, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    return Descriptor(mediaType=media_type, digest=f"sha256:{hasher.hexdigest()}", size=size, annotations={TITLE: path.name})


def check_bytes(raw: bytes, descriptor: Descriptor) -> bytes:
    """Return `raw`; raise `PackageError` if its digest or size differs from `descriptor`."""
    digest = wire.digest_of(raw)
    if len(raw) != descriptor.size or digest != descriptor.digest:
        raise PackageError(
            f"blob {descriptor.digest} must have {descriptor.size} bytes of that digest, but {len(raw)} bytes of {digest} "
            "were found: the package was changed or damaged; fetch it again"
        )
    return raw


class OciLayout:
    """An OCI image layout directory: `oci-layout`, `index.json`, `blobs/sha256/…`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> OciLayout:
        """Create an empty layout at `path`, which may be an existing empty directory."""
        layout = cls(path)
        layout._blobs.mkdir(parents=True, exist_ok=True)
        write_atomically(path / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        layout.write_index(Index(manifests=()))
        return layout

    @classmethod
    def open(cls, path: Path) -> OciLayout:
        """Open an existing layout; raise `PackageError` if `path` is not a layout directory."""
        if not (path / "oci-layout").is_file():
            raise PackageError(f"{path} is not a package: it must be an OCI layout directory or a tar of one")
        return cls(path)

    @property
    def _blobs(self) -> Path:
        return self.path / "blobs" / "sha256"

    def blob_path(self, digest: str) -> Path:
        """Return the path of a blob, existing or not."""
        return self._blobs / check_digest(digest).removeprefix("sha256:")

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Return True if a blob of that digest and size exists; its bytes were checked when it was written."""
        path = self.blob_path(descriptor.digest)
        return path.is_file() and path.stat().st_size == descriptor.size

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the verified bytes of a blob; raise `PackageError` if it is missing or differs."""
        try:
            raw = self.blob_path(descriptor.digest).read_bytes()
        except FileNotFoundError as error:
            raise PackageError(f"blob {descriptor.digest} is missing from {self.path}: the package is incomplete") from error
        return check_bytes(raw, descriptor)

    def check_blob(self, descriptor: Descriptor) -> None:
        """Raise `PackageError` unless the blob exists unchanged; it is read in pieces."""
        path = self.blob_path(descriptor.digest)
        if not path.is_file():
            raise PackageError(f"blob {descriptor.digest} is missing from {self.path}: the package is incomplete")
        actual = describe_file(path, descriptor.mediaType)
        if (actual.digest, actual.size) != (descriptor.digest, descriptor.size):
            raise PackageError(
                f"blob {descriptor.digest} must have {descriptor.size} bytes of that digest, but {actual.size} bytes of "
                f"{actual.digest} were found: the package was changed or damaged; fetch it again"
            )

    def write_blob(self, raw: bytes, media_type: str, *, title: str | None = None) -> Descriptor:
        """Store bytes and return their descriptor."""
        descriptor = descriptor_of(raw, media_type, title=title)
        if not self.has_blob(descriptor):
            write_atomically(self.blob_path(descriptor.digest), raw)
        return descriptor

    def write_document(self, document: Manifest | Index) -> Descriptor:
        """Store a manifest or index and return its descriptor."""
        raw = encode_document(document)
        descriptor = self.write_blob(raw, document.mediaType)
        return Descriptor(
            mediaType=descriptor.mediaType,
            digest=descriptor.digest,
            size=descriptor.size,
            artifactType=document.artifactType,
        )

    def read_index(self) -> Index:
        """Return the layout's own `index.json`."""
        return wire.decode((self.path / "index.json").read_bytes(), Index, what=f"{self.path}/index.json", error=PackageError)

    def write_index(self, index: Index) -> None:
        """Replace the layout's own `index.json`."""
        write_atomically(self.path / "index.json", encode_document(index))


def _without_absent(plain: object) -> object:
    """Remove None and empty maps, because the specification omits absent fields."""
    if isinstance(plain, dict):
        return {key: _without_absent(value) for key, value in plain.items() if value is not None and value != {}}
    if isinstance(plain, list | tuple):
        return [_without_absent(value) for value in plain]
    return plain
