"""Checks of JSON values that report every fault with its path, as `az iot edge set-modules` does.

A check is a function of a path and a value that yields faults. `text`, `one_of`, `whole_number` and `anything` check single
values; `record` checks an object with known keys, `mapping` one whose keys are names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fault:
    """An error at one place of a manifest."""

    path: str
    """Keys from the top, joined with `/`, since a key can hold dots."""
    text: str
    """The rule and the value found."""

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


Check = Callable[[str, Any], Iterator[Fault]]


def anything(_path: str, _value: Any) -> Iterator[Fault]:
    """Accept every value."""
    return iter(())


def text(pattern: str = "", expected: str = "a string") -> Check:
    """Return the check of a string that matches the whole `pattern`; `expected` names such a string."""

    def check(path: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, str) or (pattern and not re.fullmatch(pattern, value)):
            yield Fault(path, f"must be {expected}, not {_shown(value)}")

    return check


def one_of(*values: str) -> Check:
    """Return the check of a string that is one of `values`."""

    def check(path: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, str) or value not in values:
            yield Fault(path, f"must be {_alternatives(values)}, not {_shown(value)}")

    return check


def whole_number(low: int, high: int) -> Check:
    """Return the check of an integer from `low` to `high`."""

    def check(path: str, value: Any) -> Iterator[Fault]:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            yield Fault(path, f"must be an integer from {low} to {high}, not {_shown(value)}")

    return check


def json_object(path: str, value: Any) -> Iterator[Fault]:
    """Check that a value is an object."""
    if not isinstance(value, dict):
        yield Fault(path, f"must be an object, not {_shown(value)}")


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None, also: Check = anything) -> Check:
    """Return the check of an object with the `required` keys, perhaps the `optional` ones, and no others.

    `also` checks the object as a whole, once its keys are known; it may be given keys that only it accepts by `mapping`.
    """
    known = {**required, **(optional or {})}

    def check(path: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield Fault(path, f"must be an object, not {_shown(value)}")
            return
        for key in required:
            if key not in value:
                yield Fault(path, f"must have {key}")
        for key, inner in value.items():
            if key in known:
                yield from known[key](f"{path}/{key}", inner)
            else:
                yield Fault(f"{path}/{key}", f"is no known key here; there are {', '.join(known)}")
        yield from also(path, value)

    return check


def mapping(pattern: str, expected: str, inner: Check, *, without: Collection[str] = ()) -> Check:
    """Return the check of an object whose keys match the whole `pattern`; keys in `without` are left to other checks."""

    def check(path: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield Fault(path, f"must be an object, not {_shown(value)}")
            return
        for key, item in value.items():
            if key in without:
                continue
            if not re.fullmatch(pattern, key):
                yield Fault(f"{path}/{key}", f"the key must be {expected}")
            yield from inner(f"{path}/{key}", item)

    return check


def _alternatives(values: Collection[str]) -> str:
    *first, last = values
    return f"{', '.join(first)} or {last}" if first else last


def _shown(value: Any) -> str:
    shown = "an object" if isinstance(value, dict) else "an array" if isinstance(value, list) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
