"""Every numbered sentence of docs/spec/npu.md is named by a test."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parents[1]
SPECIFICATION = HERE.parents[1] / "docs" / "spec" / "npu.md"


def test_every_sentence_is_named_by_a_test() -> None:
    sentences = {
        int(number) for number in re.findall(r"^- \*\*N(\d+)\*\*", SPECIFICATION.read_text(encoding="utf-8"), re.MULTILINE)
    }
    names = [
        name for path in HERE.rglob("test_*.py") for name in re.findall(r"def test_((?:n\d+_(?:to_)?)+)", path.read_text("utf-8"))
    ]
    assert sentences - {number for name in names for number in named(name)} == set()


def named(name: str) -> set[int]:
    """Read `n5_to_n8_` as 5, 6, 7, 8 and `n10_n12_` as 10, 12."""
    numbers = {int(number) for number in re.findall(r"n(\d+)_", name)}
    for first, last in re.findall(r"n(\d+)_to_n(\d+)_", name):
        numbers |= set(range(int(first), int(last) + 1))
    return numbers
