"""A file of a model as a layer that its package and every image of it share: an uncompressed tar with this one file.

A container engine accepts only tars as layers of an image, and a device wants the file itself. Therefore the tar is stored once,
and its annotations give the place of the file in it, by which a device reads a range of the blob (RFC 9110, section 14):

    dev.edgewright.file.type      media type of the file
    dev.edgewright.file.digest    its SHA-256 digest
    dev.edgewright.file.size      its size in bytes
    dev.edgewright.file.offset    the number of bytes before it in the tar

In the root file system of an image, the file is `MODEL_FILES`/MODEL/NAME. A version is not part of that path, because it is
assigned after the package was written, and because an unchanged file keeps its layer in the next version.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import IO

from edgewright.contracts.environments.images import LAYER_TYPE
from edgewright.contracts.environments.tars import Entry, HashingStream, write_tar
from edgewright.contracts.files import writing_atomically
from edgewright.contracts.oci import TITLE, Descriptor, OciLayout, describe_file
from edgewright.errors import PackageError

MODEL_FILES = "opt/edgewright/models"
FILE_TYPE = "dev.edgewright.file.type"
FILE_DIGEST = "dev.edgewright.file.digest"
FILE_SIZE = "dev.edgewright.file.size"
FILE_OFFSET = "dev.edgewright.file.offset"
IN_BLOB = "dev.edgewright.file.blob"
"""Annotation of the descriptor of a file: the digest of the tar that holds it."""
_PIECE_BYTES = 1 << 20


class _Nowhere(io.RawIOBase):
    """A stream that drops what is written."""

    def write(self, piece: object) -> int:
        """Drop a piece."""
        return 0


def write_file_layer(layout: OciLayout, source: Path, media_type: str, *, model: str) -> Descriptor:
    """Store a file as a tar in a layout, and return the descriptor of the tar; the same file gives the same tar."""
    file = describe_file(source, media_type)
    entries = [Entry(path=f"{MODEL_FILES}/{model}/{source.name}", source=source)]
    hashing = HashingStream(_Nowhere())  # type: ignore[arg-type]
    write_tar(hashing, entries)
    layer = Descriptor(mediaType=LAYER_TYPE, digest=hashing.digest, size=hashing.size)
    path = layout.blob_path(layer.digest)
    if not layout.has_blob(layer):
        with writing_atomically(path) as stream:
            write_tar(HashingStream(stream), entries)
    with tarfile.open(path, mode="r:") as tar:
        offset = tar.getmember(entries[0].path).offset_data
    annotations = {
        TITLE: f"{source.name}.tar",
        FILE_TYPE: media_type,
        FILE_DIGEST: file.digest,
        FILE_SIZE: str(file.size),
        FILE_OFFSET: str(offset),
    }
    return replace(layer, annotations=annotations)


def file_of(layer: Descriptor) -> Descriptor:
    """Return the descriptor of the file in a layer: its own type, digest and size; a layer that is no tar is its file.

    Raises:
        PackageError: the annotations of a tar do not give the place of a file in it.
    """
    if layer.mediaType != LAYER_TYPE or FILE_DIGEST not in layer.annotations:
        return layer
    notes = layer.annotations
    if not all(notes.get(name, "").isdecimal() and len(notes[name]) <= 18 for name in (FILE_SIZE, FILE_OFFSET)):
        raise PackageError(f"the layer {layer.digest} must state {FILE_SIZE} and {FILE_OFFSET} in bytes: build the package again")
    size, offset = int(notes[FILE_SIZE]), int(notes[FILE_OFFSET])
    if offset + size > layer.size:
        raise PackageError(f"the file in the layer {layer.digest} must end within its {layer.size} bytes, not at {offset + size}")
    return Descriptor(
        mediaType=notes.get(FILE_TYPE, ""),
        digest=notes[FILE_DIGEST],
        size=size,
        annotations={IN_BLOB: layer.digest, FILE_OFFSET: str(offset)},
    )


def place_of(file: Descriptor) -> tuple[str, int]:
    """Return the digest of the blob that holds a file, and the number of bytes before the file in it."""
    return file.annotations.get(IN_BLOB, file.digest), int(file.annotations.get(FILE_OFFSET, 0))


def copy_file(blob: Path, file: Descriptor, target: IO[bytes]) -> None:
    """Write the bytes of a file in a stored blob to `target`.

    Raises:
        PackageError: the bytes differ from the file's digest.
    """
    hasher, left = hashlib.sha256(), file.size
    with blob.open("rb") as stream:
        stream.seek(place_of(file)[1])
        while left and (piece := stream.read(min(left, _PIECE_BYTES))):
            hasher.update(piece)
            target.write(piece)
            left -= len(piece)
    actual = f"sha256:{hasher.hexdigest()}"
    if left or actual != file.digest:
        raise PackageError(
            f"blob {file.digest} must have {file.size} bytes of that digest, but {file.size - left} bytes of {actual} were "
            "found: the package was changed or damaged; fetch it again"
        )
