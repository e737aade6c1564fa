"""Messages about the maintenance of the registry."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.errors import BadInputError

GRACE_S = 24 * 3600.0
"""Time that a blob stays after its last use although nothing refers to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRequest:
    """Request to remove blobs that nothing refers to: POST /v1/registry/collect."""

    grace_s: float = GRACE_S

    def __post_init__(self) -> None:
        if not 0 <= self.grace_s <= 1e9:
            raise BadInputError(f"grace_s must be a number of seconds from 0 to 1e9, not {self.grace_s:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The blobs that were removed, and their total size."""

    blobs: int
    size_bytes: int
