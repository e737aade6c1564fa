"""Instruction words: decoding reverses encoding, and invalid words are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.npu import isa
from accel.npu.hardware.sources import RTL
from edgewright.errors import PackageError


@st.composite
def instructions(draw: st.DrawFn) -> isa.Instruction:
    kind = isa.CLASSES[draw(st.sampled_from(list(isa.Opcode)))]
    return kind(**{field.name: draw(st.integers(field.low, field.high)) for field in isa.LAYOUTS[kind.opcode]})


@given(st.lists(instructions(), max_size=5))
def test_n20_decoding_reverses_encoding(program: list[isa.Instruction]) -> None:
    words = isa.encode(program)
    assert words.shape == (len(program), 4)
    assert isa.decode(words) == program


def test_n20_fields_follow_the_opcode_from_bit_4_upwards() -> None:
    (word,) = isa.encode([isa.LoadW(address=0xABCDE, rows=0x12)])
    assert word.tolist() == [0x12ABCDE3, 0, 0, 0]


def test_n20_the_header_of_the_rtl_is_generated_from_the_same_table() -> None:
    assert (RTL / "npu_isa.svh").read_text(encoding="utf-8") == isa.rtl_header()


def test_n20_every_layout_fits_the_word() -> None:
    widths = [isa.OPCODE_BITS + sum(field.bits for field in layout) for layout in isa.LAYOUTS.values()]
    assert max(widths) <= isa.WORD_BITS


def test_n21_an_unknown_opcode_is_refused() -> None:
    with pytest.raises(PackageError, match=r"^instruction 1: the opcode must be one of 0 to 10, not 15$"):
        isa.decode(np.array([[1, 0, 0, 0], [15, 0, 0, 0]], np.uint32))


def test_n21_a_bit_after_the_last_field_is_refused() -> None:
    with pytest.raises(PackageError, match=r"^instruction 0: the bits after the last field of HALT must be 0$"):
        isa.decode(np.array([[0, 0, 0, 1 << 31]], np.uint32))


def test_a_value_that_does_not_fit_its_field_is_refused() -> None:
    with pytest.raises(PackageError, match=r"^LOADW: rows must be between 0 and 255, not 256$"):
        isa.LoadW(address=0, rows=256)
