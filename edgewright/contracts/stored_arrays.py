"""Arrays that stay on disk: five thousand images take no more memory than fifty.

    read_arrays   the arrays of a `.npz`; a large one is mapped from the file where it lies, or from a copy without a name
                  where it is compressed
    Gathered      the parts of an array, put together on disk where it will be large
    cast          another dtype; of a large array, in a copy of the same kind
    pieces        a large array from front to back, a few megabytes at a time
    let_go        pages that were read may leave memory; they are read again when somebody looks

A mapped array is an ordinary `numpy.ndarray`, so what takes arrays takes these. What is small is simply read.
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
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

LARGE_BYTES = 32 << 20
"""From here on an array stays on disk."""
PIECE_BYTES = 4 << 20

_LOCAL_HEADER_BYTES = 30
_LENGTHS_AT = 26


class Gathered:
    """An array that is put together from parts along its first axis, of which there are `count` entries in all."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[Array] = []
        self._stream: IO[bytes] | None = None

    def append(self, part: Array) -> None:
        """Add the next part."""
        if not self._parts and part.nbytes // max(1, len(part)) * self._count >= LARGE_BYTES and not part.dtype.hasobject:
            self._stream = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as what is gathered
        if self._stream is None:
            self._parts.append(part)
            return
        self._parts = [part[:0]]  # of the others only the dtype and shape are needed
        self._stream.write(np.ascontiguousarray(part).data)

    def whole(self) -> Array:
        """Return the array; a large one is on disk."""
        if self._stream is None:
            return np.concatenate(self._parts)
        with self._stream as stream:
            return _mapped(stream, 0, self._parts[0].dtype, (self._count, *self._parts[0].shape[1:]))


def read_arrays(path: Path) -> Tensors:
    """Return all arrays of a `.npz`, never unpickling; every byte was compared with its checksum.

    Raises:
        ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError: it is none, or is damaged.
    """
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        found = {member.filename: _read(stream, archive, member) for member in archive.infolist()}
    return {name.removesuffix(".npy"): array for name, array in found.items()}


def cast(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return an array of any dtype as `dtype`, value by value."""
    wanted = np.dtype(dtype)
    if array.size * wanted.itemsize < LARGE_BYTES:
        return array.astype(wanted)
    with tempfile.TemporaryFile() as stream:
        for piece in pieces(array):
            stream.write(piece.astype(wanted).data)
        return _mapped(stream, 0, wanted, array.shape)


def pieces(array: Array, rows: int | None = None) -> Iterator[Array]:
    """Yield the samples of an array in order, `rows` at a time or as many as go into `PIECE_BYTES`; contiguous copies."""
    step = rows or max(1, PIECE_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), step):
        yield np.array(array[start : start + step], order="C")
        let_go(array)


def let_go(array: Array) -> None:
    """Tell the system that the pages behind a mapped array are not needed now; for any other array nothing happens."""
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


def _read(stream: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as opened:
        shape, in_columns, dtype = _header(opened)
        begins = opened.tell()
        large = math.prod(shape) * dtype.itemsize >= LARGE_BYTES and not dtype.hasobject and not in_columns
        if large:
            return _stored(stream, opened, member, begins, dtype, shape)
    with archive.open(member) as opened:
        small: Array = np.lib.format.read_array(opened, allow_pickle=False)
        if opened.read(1):
            raise ValueError(f"{member.filename} is longer than its header says")
        return small


def _header(opened: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(opened)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(opened)
    return np.lib.format.read_array_header_2_0(opened)


def _stored(
    stream: IO[bytes],
    opened: IO[bytes],
    member: zipfile.ZipInfo,
    begins: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> Array:
    """Map what lies in the archive as it is, after reading it once for its checksum; unpack what does not."""
    if member.file_size != begins + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{member.filename} must have {math.prod(shape) * dtype.itemsize} bytes of numbers")
    if member.compress_type != zipfile.ZIP_STORED:
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(opened, unpacked, PIECE_BYTES)
            return _mapped(unpacked, 0, dtype, shape)
    while opened.read(PIECE_BYTES):
        pass
    return _mapped(stream, _data_at(stream, member) + begins, dtype, shape)


def _data_at(stream: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin: behind its local header, its name and its extra field (APPNOTE.TXT 4.3.7)."""
    stream.seek(member.header_offset + _LENGTHS_AT)
    name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
    return member.header_offset + _LOCAL_HEADER_BYTES + name + extra


def _mapped(stream: IO[bytes], offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    stream.flush()
    view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    found: Array = np.frombuffer(view, dtype, math.prod(shape), offset).reshape(shape)
    return found
