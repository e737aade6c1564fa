"""Arrays that stay on disk: five thousand images take no more memory than fifty.

    read_arrays   the arrays of a `.npz`; a large one is mapped from the file, or from an unnamed copy if it is compressed
    Gathered      an array assembled from parts, on disk if it becomes large
    cast          conversion to another dtype, on disk for a large array
    pieces        a large array from front to back, a few megabytes at a time
    let_go        release of pages that were read; a later access reads them again

A mapped array is an ordinary `numpy.ndarray`. A small array is read into memory.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

LARGE_BYTES = 32 << 20
"""Arrays of this size and above stay on disk."""
PIECE_BYTES = 4 << 20

_LOCAL_HEADER_BYTES = 30
_LENGTHS_AT = 26


class Gathered:
    """An array assembled from parts along its first axis, which has `count` entries in total."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[Array] = []
        self._stream: IO[bytes] | None = None

    def append(self, part: Array) -> None:
        """Add the next part."""
        if not self._parts and part.nbytes // max(1, len(part)) * self._count >= LARGE_BYTES and not part.dtype.hasobject:
            self._stream = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whole()
        if self._stream is None:
            self._parts.append(part)
            return
        self._parts = [part[:0]]  # the dtype and the shape of the parts
        self._stream.write(np.ascontiguousarray(part).data)

    def whole(self) -> Array:
        """Return the array; a large one is on disk."""
        if self._stream is None:
            return np.concatenate(self._parts)
        with self._stream as stream:
            return _mapped(stream, 0, self._parts[0].dtype, (self._count, *self._parts[0].shape[1:]))


def read_arrays(path: Path) -> Tensors:
    """Return all arrays of a `.npz` without unpickling, after comparing every byte with its checksum.

    Raises:
        ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError: the file is damaged, or is not a `.npz`.
    """
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        arrays = {member.filename: _read(stream, archive, member) for member in archive.infolist()}
    return {name.removesuffix(".npy"): array for name, array in arrays.items()}


def cast(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return an array converted to `dtype`, value by value."""
    target = np.dtype(dtype)
    if array.size * target.itemsize < LARGE_BYTES:
        return array.astype(target)
    with tempfile.TemporaryFile() as stream:
        for piece in pieces(array):
            stream.write(piece.astype(target).data)
        return _mapped(stream, 0, target, array.shape)


def pieces(array: Array, rows: int | None = None) -> Iterator[Array]:
    """Yield contiguous copies of an array's samples in order, `rows` at a time or as many as fit into `PIECE_BYTES`."""
    step = rows or max(1, PIECE_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), step):
        yield np.array(array[start : start + step], order="C")
        let_go(array)


def let_go(array: Array) -> None:
    """Advise the system that the pages of a mapped array are not needed now; other arrays are unaffected."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def digest_of_array(array: Array) -> str:
    """Return the SHA-256 of an array's numbers in C order, as `sha256:` and hexadecimal digits."""
    digest = hashlib.sha256()
    for piece in pieces(array) if array.ndim else [np.ascontiguousarray(array)]:
        digest.update(piece.data)
    return f"sha256:{digest.hexdigest()}"


class _Header(NamedTuple):
    """The header of a `.npy` member."""

    shape: tuple[int, ...]
    by_column: bool
    dtype: np.dtype[Any]

    @property
    def array_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def can_be_mapped(self) -> bool:
        return self.array_bytes >= LARGE_BYTES and not self.dtype.hasobject and not self.by_column


def _read(stream: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as opened:
        header = _header(opened)
        if header.can_be_mapped:
            return _stored(stream, opened, member, header)
    with archive.open(member) as opened:
        small: Array = np.lib.format.read_array(opened, allow_pickle=False)
        if opened.read(1):
            raise ValueError(f"{member.filename} is longer than its header states")
        return small


def _header(opened: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(opened)
    if version == (1, 0):
        return _Header(*np.lib.format.read_array_header_1_0(opened))
    return _Header(*np.lib.format.read_array_header_2_0(opened))


def _stored(stream: IO[bytes], opened: IO[bytes], member: zipfile.ZipInfo, header: _Header) -> Array:
    """Map an uncompressed member after reading it once for its checksum; unpack a compressed one."""
    header_bytes = opened.tell()
    if member.file_size != header_bytes + header.array_bytes:
        raise ValueError(f"{member.filename} must have {header.array_bytes} bytes of numbers")
    if member.compress_type != zipfile.ZIP_STORED:
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(opened, unpacked, PIECE_BYTES)
            return _mapped(unpacked, 0, header.dtype, header.shape)
    while opened.read(PIECE_BYTES):
        pass
    return _mapped(stream, _data_offset(stream, member) + header_bytes, header.dtype, header.shape)


def _data_offset(stream: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Return the offset of a member's bytes, which follow its local header, name and extra field (APPNOTE.TXT 4.3.7)."""
    stream.seek(member.header_offset + _LENGTHS_AT)
    name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
    return member.header_offset + _LOCAL_HEADER_BYTES + name + extra


def _mapped(stream: IO[bytes], offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    stream.flush()
    view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    array: Array = np.frombuffer(view, dtype, math.prod(shape), offset).reshape(shape)
    return array
