from __future__ import annotations

import inspect

import pytest

from edgewright import errors
from edgewright.errors import EdgewrightError, first_line, last_line, one_line


def classes_below(base: type[EdgewrightError], depth: int = 0) -> list[tuple[int, type[EdgewrightError]]]:
    mine = [kind for kind in base.__subclasses__() if kind.__module__ == errors.__name__]
    return [entry for kind in mine for entry in ((depth, kind), *classes_below(kind, depth + 1))]


def test_the_tree_in_the_docstring_lists_every_error_below_its_base() -> None:
    lines = [line for line in (inspect.getdoc(errors) or "").splitlines() if "── " in line]
    listed = {(line.index("── ") // 4 - 1, line.split("── ")[1].split()[0]) for line in lines}
    assert listed == {(depth, kind.__name__) for depth, kind in classes_below(EdgewrightError)}


@pytest.mark.parametrize(
    ("error", "whole", "first"),
    [
        pytest.param(ValueError("\n one\n  two "), "one two", "one", id="several lines"),
        pytest.param(ValueError(), "ValueError", "ValueError", id="no text"),
        pytest.param(ValueError("x" * 400), "x" * 299 + "…", "x" * 299 + "…", id="too long"),
    ],
)
def test_an_error_of_a_library_is_repeated_on_one_line(error: ValueError, whole: str, first: str) -> None:
    assert (one_line(error), first_line(error)) == (whole, first)


def test_the_last_line_of_a_program_skips_blank_lines() -> None:
    assert last_line("first\n second \n\n") == "second"
    assert last_line(" \n") == "no message"
