"""Progress of long loops as a callback: domain code reports it, a command line may draw it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """A function that passes items through and may show how many are done."""

    def __call__(self, items: Sequence[T], label: str, /) -> Iterable[T]:
        """Yield `items` in order; `label` is a short description of the loop."""


def silent(items: Sequence[T], _label: str, /) -> Iterable[T]:
    """Pass `items` through without showing anything."""
    return items
