"""The compiled program: the memory contents that are uploaded to an NPU, and their binary file format.

The file is a header (magic, version, section count, profile hash, length, CRC32), then the sections, each with its kind and
length. Reading gives a complete program or one error: the file is truncated, damaged, of a newer version, or for another NPU
(docs/spec/npu.md, N50-N54).
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from accel.npu import isa
from accel.npu.arithmetic import Int8, Int32
from accel.npu.profile import NpuProfile
from accel.npu.tensors import TensorPlace
from edgewright.contracts import wire
from edgewright.errors import PackageError, ProfileError

MAGIC = b"EWNP"
VERSION = 3
WITHOUT_SEGMENTS = 2
"""Version of the format without segments; a program without them is written in it, for devices of an earlier edgewright."""
EXTERNAL_BASE = 1 << 16
"""First vector address of the external memory, as a host counts; lower ones are activations (docs/spec/npu.md, N156)."""
_HEADER = struct.Struct("<4sHH32sII")
_SECTION = struct.Struct("<II")


class Section(enum.IntEnum):
    """Kinds of section in a program file."""

    INSTRUCTIONS = 1
    WEIGHTS = 2
    PARAMETERS = 3
    DESCRIPTION = 4
    EXTERNAL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """The range of executed instructions of one layer: `first` up to, not including, `last`."""

    name: str
    operator: str
    first: int
    last: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """One of several parts of a network (lowering/segments.py): its inputs and outputs by name, and its multiplications."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Inputs, outputs and layers of a program, for the host that runs it."""

    inputs: tuple[TensorPlace, ...]
    outputs: tuple[TensorPlace, ...]
    layers: tuple[LayerRecord, ...]
    profile_name: str
    segments: tuple[SegmentRecord, ...] = ()
    """The segments in order, if the host computes between them or before the first; empty if one run computes all outputs. Every
    run executes the whole program, and only the outputs of the segment are valid whose inputs were written before it."""

    @property
    def runs(self) -> tuple[SegmentRecord, ...]:
        """The segments, or one with all inputs and outputs if there are no records."""
        whole = SegmentRecord(
            inputs=tuple(place.name for place in self.inputs),
            outputs=tuple(place.name for place in self.outputs),
            macs=sum(layer.macs for layer in self.layers),
        )
        return self.segments or (whole,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NpuProgram:
    """Contents of the NPU's memories when the program starts.

    Instructions are [count, 4] words, weights [rows, columns], parameters [groups, lanes, 3] (bias, multiplier, shift).
    `external` [words] are the constants in the external memory from address 0 on: further instructions, weights and parameters,
    which the program itself fetches (model/trace.py follows it).
    """

    profile_hash: bytes
    instructions: isa.Words
    weights: Int8
    parameters: Int32
    external: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    description: Description

    def check_profile(self, profile: NpuProfile) -> None:
        """Raise `ProfileError` unless the program was compiled for this NPU."""
        if self.profile_hash != profile.hash:
            raise ProfileError(
                f"the program was compiled for NPU {self.description.profile_name} ({self.profile_hash.hex()[:12]}), but this is "
                f"{profile.name} ({profile.hash.hex()[:12]}); compile the model again for {profile.name}"
            )

    def to_bytes(self) -> bytes:
        """Return the bytes of the program file; equal programs give equal bytes."""
        contents = {
            Section.INSTRUCTIONS: self.instructions.astype("<u4").tobytes(),
            Section.WEIGHTS: _pack_shape(self.weights.shape) + self.weights.tobytes(),
            Section.PARAMETERS: _pack_shape(self.parameters.shape) + self.parameters.astype("<i4").tobytes(),
            Section.DESCRIPTION: wire.encode(self.description),
        }
        if len(self.external):
            contents[Section.EXTERNAL] = self.external.astype("<u4").tobytes()
        body = b"".join(_SECTION.pack(kind, len(content)) + content for kind, content in contents.items())
        length = _HEADER.size + len(body)
        version = VERSION if self.description.segments else WITHOUT_SEGMENTS
        unsigned = _HEADER.pack(MAGIC, version, len(contents), self.profile_hash, length, 0)
        return _HEADER.pack(MAGIC, version, len(contents), self.profile_hash, length, zlib.crc32(unsigned + body)) + body


def read_program(raw: bytes, what: str = "the program") -> NpuProgram:
    """Return the program in the bytes of a program file; `what` names the file in messages.

    Raises:
        PackageError: the file is truncated, damaged, of a newer version or not a program.
    """
    if len(raw) < _HEADER.size or not raw.startswith(MAGIC):
        raise PackageError(f"{what} must start with {_HEADER.size} bytes of NPU program header; these {len(raw)} bytes do not")
    magic, version, section_count, profile_hash, length, crc = _HEADER.unpack_from(raw)
    if version > VERSION:
        raise PackageError(f"{what} has format version {version}, newer than {VERSION}: update edgewright on this machine")
    if len(raw) != length:
        raise PackageError(f"{what} must have {length} bytes, but it has {len(raw)}: it is truncated or damaged, fetch it again")
    unsigned = _HEADER.pack(magic, version, section_count, profile_hash, length, 0)
    if zlib.crc32(unsigned + raw[_HEADER.size :]) != crc:
        raise PackageError(f"{what} does not match its checksum: it is damaged, fetch it again")
    try:
        return _from_sections(profile_hash, _sections(raw, section_count), what)
    except (KeyError, ValueError, struct.error) as error:
        raise PackageError(f"{what} matches its checksum, but its sections cannot be read: {error}") from error


def _sections(raw: bytes, count: int) -> dict[int, bytes]:
    sections, at = {}, _HEADER.size
    for _ in range(count):
        kind, length = _SECTION.unpack_from(raw, at)
        at += _SECTION.size
        sections[kind] = raw[at : at + length]
        at += length
    return sections


def _from_sections(profile_hash: bytes, sections: dict[int, bytes], what: str) -> NpuProgram:
    instructions = np.frombuffer(sections[Section.INSTRUCTIONS], "<u4").reshape(-1, 4).astype(np.uint32)
    weight_shape, weights = _unpack_shape(sections[Section.WEIGHTS], 2)
    parameter_shape, parameters = _unpack_shape(sections[Section.PARAMETERS], 3)
    return NpuProgram(
        profile_hash=profile_hash,
        instructions=instructions,
        weights=np.frombuffer(weights, np.int8).reshape(weight_shape),
        parameters=np.frombuffer(parameters, "<i4").reshape(parameter_shape).astype(np.int32),
        external=np.frombuffer(sections.get(Section.EXTERNAL, b""), "<u4").astype(np.uint32),
        description=wire.decode(
            sections[Section.DESCRIPTION], Description, what=f"the description in {what}", error=PackageError
        ),
    )


def _pack_shape(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(shape)}I", *shape)


def _unpack_shape(content: bytes, axes: int) -> tuple[tuple[int, ...], bytes]:
    layout = struct.Struct(f"<{axes}I")
    return layout.unpack_from(content), content[layout.size :]
