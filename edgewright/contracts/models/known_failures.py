"""Messages about known failures: a version that failed on a hardware profile because of the package itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgiveRequest:
    """Request to remove the known failures of a version: POST /v1/rollouts/forgive."""

    model: str
    version: int
    profile: str | None = None
    """None means all hardware profiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFailure:
    """A hardware profile on which a version is known to fail, so that it is not rolled out there."""

    profile: str
    reason: str
    at: datetime
