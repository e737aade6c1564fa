"""The instruction set: one table that defines encoding, decoding and the header of the RTL.

An instruction is one 128-bit word: the opcode in bits 3..0, then the fields of its layout from bit 4 upwards, then zeros
(docs/spec/npu.md, N20-N29, N150, N159). The functional model (model/functional_model.py) defines their effects.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from edgewright.errors import PackageError

WORD_BITS = 128
OPCODE_BITS = 4
Words = npt.NDArray[np.uint32]
"""Instructions as [count, 4] 32-bit words, the least significant word first."""


class Opcode(enum.IntEnum):
    """Opcodes; zero is HALT, so that an NPU with an empty program memory stops at once."""

    HALT = 0
    SYNC = 1
    SHAPE = 2
    LOADW = 3
    GEMM = 4
    DW = 5
    POOL = 6
    RESIDUAL = 7
    VEC = 8
    DMA = 9
    REPEAT = 10


class Region(enum.IntEnum):
    """Numbers of the memories inside the NPU, for host and DMA."""

    PROGRAM = 1
    WEIGHTS = 2
    ACTIVATIONS = 3
    PARAMETERS = 4


class Field(NamedTuple):
    """One field of an instruction, `bits` wide."""

    name: str
    bits: int
    signed: bool = False

    @property
    def low(self) -> int:
        """The smallest value that the field can hold."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest value that the field can hold."""
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1


_ARRAY_LAYOUT = (
    Field("base", 16),
    Field("top", 12, signed=True),
    Field("left", 12, signed=True),
    Field("accumulator", 13),
    Field("kernel_rows", 6),
    Field("kernel_columns", 6),
    Field("row_dilation", 4),
    Field("column_dilation", 4),
    Field("tap_row_pitch", 16),
    Field("tap_column_pitch", 16),
    Field("accumulate", 1),
    Field("swap", 1),
    Field("maximum", 1),
)

LAYOUTS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.HALT: (),
    Opcode.SYNC: (Field("loader", 1), Field("array", 1), Field("vector", 1), Field("transfers", 1), Field("pending", 4)),
    Opcode.SHAPE: (
        Field("height", 12),
        Field("width", 12),
        Field("rows", 12),
        Field("columns", 12),
        Field("row_step", 4),
        Field("column_step", 4),
        Field("row_pitch", 16),
        Field("column_pitch", 16),
        Field("padding", 8, signed=True),
    ),
    Opcode.LOADW: (Field("address", 20), Field("rows", 8)),
    Opcode.GEMM: _ARRAY_LAYOUT,
    Opcode.DW: _ARRAY_LAYOUT,
    Opcode.POOL: _ARRAY_LAYOUT,
    Opcode.RESIDUAL: (
        Field("main_zero", 8, signed=True),
        Field("other_zero", 8, signed=True),
        Field("main_multiplier", 15),
        Field("other_multiplier", 15),
        Field("shift", 5),
        Field("zero", 8, signed=True),
        Field("low", 8, signed=True),
        Field("high", 8, signed=True),
    ),
    Opcode.VEC: (
        Field("accumulator", 13),
        Field("count", 13),
        Field("parts", 4),
        Field("destination", 16),
        Field("part_pitch", 16),
        Field("parameters", 16),
        Field("residual", 16),
        Field("zero", 8, signed=True),
        Field("low", 8, signed=True),
        Field("high", 8, signed=True),
        Field("add", 1),
    ),
    Opcode.DMA: (
        Field("store", 1),
        Field("region", 3),
        Field("external", 26),
        Field("local", 20),
        Field("words", 16),
        Field("runs", 12),
        Field("external_pitch", 24),
        Field("local_pitch", 18),
    ),
    Opcode.REPEAT: (Field("count", 12), Field("address_step", 8), Field("base_step", 16)),
}


_LIMITS = {opcode: tuple((field.name, field.low, field.high) for field in layout) for opcode, layout in LAYOUTS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """Base class of all instructions; the fields are those of `LAYOUTS[opcode]`, and their ranges are checked."""

    opcode: ClassVar[Opcode]

    def __post_init__(self) -> None:
        for name, low, high in _LIMITS[self.opcode]:
            value = getattr(self, name)
            if not low <= value <= high:
                raise PackageError(f"{self.opcode.name}: {name} must be between {low} and {high}, not {value}")

    def __str__(self) -> str:
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        shown = [f"{name}={value}" for name, value, default in values if value != default]
        return " ".join([self.opcode.name.ljust(8), *shown]).rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Instruction):
    """Instruction that waits for every unit, then stops."""

    opcode = Opcode.HALT


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(Instruction):
    """Instruction that waits until the named units are idle; with `transfers`, until at most `pending` transfers are left."""

    opcode = Opcode.SYNC
    loader: int = 0
    array: int = 0
    vector: int = 0
    transfers: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(Instruction):
    """Instruction that sets the geometry of the array passes after it: the input plane and the grid of positions."""

    opcode = Opcode.SHAPE
    height: int
    width: int
    rows: int
    columns: int
    row_step: int = 1
    column_step: int = 1
    row_pitch: int
    column_pitch: int = 1
    padding: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadW(Instruction):
    """Instruction that loads weight rows into the shadow set while the array works."""

    opcode = Opcode.LOADW
    address: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPass(Instruction):
    """Base class of GEMM, DW and POOL: a window over every position of the shape."""

    base: int
    top: int = 0
    left: int = 0
    accumulator: int = 0
    kernel_rows: int = 1
    kernel_columns: int = 1
    row_dilation: int = 1
    column_dilation: int = 1
    tap_row_pitch: int = 0
    tap_column_pitch: int = 0
    accumulate: int = 0
    swap: int = 0
    maximum: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm(ArrayPass):
    """Instruction that adds the matrix product of the live weights and the activation vector."""

    opcode = Opcode.GEMM


@dataclass(frozen=True, slots=True, kw_only=True)
class Dw(ArrayPass):
    """Instruction that adds, per channel, the products of the window and the kernel (sizes: depthwise.py)."""

    opcode = Opcode.DW


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(ArrayPass):
    """Instruction that adds the activations, or keeps their maximum, per channel."""

    opcode = Opcode.POOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual(Instruction):
    """Instruction that sets the parameters with which the vector passes after it add a second tensor."""

    opcode = Opcode.RESIDUAL
    main_zero: int
    other_zero: int
    main_multiplier: int
    other_multiplier: int
    shift: int
    zero: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vec(Instruction):
    """Instruction that biases, requantizes and clamps, adds the residual if `add` is set, and writes activation vectors."""

    opcode = Opcode.VEC
    accumulator: int
    count: int
    parts: int = 1
    destination: int
    part_pitch: int = 0
    parameters: int
    residual: int = 0
    zero: int = 0
    low: int = -128
    high: int = 127
    add: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dma(Instruction):
    """Instruction that queues a transfer of `runs` x `words` 32-bit words between the external memory and a region."""

    opcode = Opcode.DMA
    store: int = 0
    region: int
    external: int
    local: int
    words: int
    runs: int = 1
    external_pitch: int = 0
    local_pitch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Instruction):
    """Instruction that repeats the two after it, a LOADW and an array pass, `count` times with stepped addresses."""

    opcode = Opcode.REPEAT
    count: int
    address_step: int
    base_step: int


CLASSES: dict[Opcode, type[Instruction]] = {
    kind.opcode: kind for kind in (Halt, Sync, Shape, LoadW, Gemm, Dw, Pool, Residual, Vec, Dma, Repeat)
}


def encode(instructions: Iterable[Instruction]) -> Words:
    """Return the instructions as [count, 4] 32-bit words."""
    words = [_to_word(instruction).to_bytes(WORD_BITS // 8, "little") for instruction in instructions]
    return np.frombuffer(b"".join(words), dtype="<u4").reshape(-1, 4).astype(np.uint32)


def decode(words: Words) -> list[Instruction]:
    """Decode [count, 4] words.

    Raises:
        PackageError: a word has an unknown opcode, or a bit outside the layout is set.
    """
    raw = np.ascontiguousarray(words, dtype="<u4").tobytes()
    step = WORD_BITS // 8
    return [_from_word(int.from_bytes(raw[at : at + step], "little"), at // step) for at in range(0, len(raw), step)]


def _to_word(instruction: Instruction) -> int:
    word, at = int(instruction.opcode), OPCODE_BITS
    for field in LAYOUTS[instruction.opcode]:
        word |= (getattr(instruction, field.name) & ((1 << field.bits) - 1)) << at
        at += field.bits
    return word


def _from_word(word: int, index: int) -> Instruction:
    code = word & ((1 << OPCODE_BITS) - 1)
    if code not in CLASSES:
        raise PackageError(f"instruction {index}: the opcode must be one of 0 to {max(Opcode)}, not {code}")
    values, rest = {}, word >> OPCODE_BITS
    for field in LAYOUTS[Opcode(code)]:
        value = rest & ((1 << field.bits) - 1)
        values[field.name] = value - (1 << field.bits) if value > field.high else value
        rest >>= field.bits
    if rest:
        raise PackageError(f"instruction {index}: the bits after the last field of {Opcode(code).name} must be 0")
    return CLASSES[Opcode(code)](**values)


def rtl_header() -> str:
    """Return the text of rtl/npu_isa.svh: opcodes as constants, fields as bit ranges of the instruction word."""
    lines = [
        "// Made from accel/npu/isa.py by `python -m accel.npu.isa`; do not edit.",
        "`ifndef NPU_ISA_SVH",
        "`define NPU_ISA_SVH",
    ]
    lines += [f"`define NPU_OP_{opcode.name} 4'd{int(opcode)}" for opcode in Opcode]
    for name, layout in (("ARRAY", _ARRAY_LAYOUT), *_unshared_layouts()):
        lines += _ranges(name, layout)
    return "\n".join([*lines, "`endif", ""])


def _unshared_layouts() -> list[tuple[str, Sequence[Field]]]:
    return [(opcode.name, layout) for opcode, layout in LAYOUTS.items() if layout and layout is not _ARRAY_LAYOUT]


def _ranges(name: str, layout: Sequence[Field]) -> list[str]:
    lines, at = [], OPCODE_BITS
    for field in layout:
        bits = f"{at}" if field.bits == 1 else f"{at + field.bits - 1}:{at}"
        lines.append(f"`define NPU_{name}_{field.name.upper()} {bits}")
        if field.bits > 1:
            lines.append(f"`define NPU_{name}_{field.name.upper()}_LOW {at}")
        at += field.bits
    return lines


if __name__ == "__main__":
    import sys

    sys.stdout.write(rtl_header())
