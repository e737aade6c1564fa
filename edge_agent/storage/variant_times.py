"""What this device measured of each model's variants, so that the next version need not cost every variant's bytes again.

    measured/<model>.json     one record per model, replaced whole; a damaged one is as good as none

A record holds for as long as its basis stays the same: the variants that fit, the machine, and the software that runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import Digest, nearest
from edgewright.errors import MessageError, NotFoundError

MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantTimes:
    """What one sample took each variant of a model on this device, in milliseconds."""

    model: str
    version: int
    """The version that was measured."""
    measured_at: datetime
    basis: Digest
    """The digest of what the times depend on (`measure.basis_of`)."""
    fastest: str
    median_ms: dict[str, float]
    failures: dict[str, str]
    """Why the other variants that fit have no time."""

    def __post_init__(self) -> None:
        if self.fastest not in self.median_ms:
            raise MessageError(f"the fastest variant of {self.model} must have a time, but {self.fastest!r} has none")


def recall(state_directory: Path, model: str, basis: Digest) -> VariantTimes | None:
    """Return what was measured of `model`; None when nothing was, or on another basis."""
    known = _read(_path(state_directory, model))
    return known if known is not None and known.basis == basis else None


def remember(state_directory: Path, times: VariantTimes) -> None:
    """Keep what was measured in place of what was before; raise `StorageFullError` on a full disk."""
    write_atomically(_path(state_directory, times.model), wire.encode(times))


def everything_measured(state_directory: Path) -> tuple[VariantTimes, ...]:
    """Return what was measured of every model, by name."""
    found = (_read(path) for path in sorted((state_directory / MEASURED).glob("*.json")))
    return tuple(times for times in found if times is not None)


def forget(state_directory: Path, model: str | None) -> tuple[str, ...]:
    """Forget what was measured of `model`, or of every model; return whose times are gone.

    Raises:
        NotFoundError: nothing was measured of `model`.
    """
    known = {path.stem: path for path in sorted((state_directory / MEASURED).glob("*.json"))}
    if model is not None and model not in known:
        raise NotFoundError(
            f"variants of {model!r} must have been measured to be forgotten, but none were{nearest(model, known)}"
        )
    gone = tuple(known) if model is None else (model,)
    for name in gone:
        known[name].unlink(missing_ok=True)
    return gone


def in_ms(median_ms: float) -> str:
    """Return a time in words, with as many digits as say something."""
    return f"{median_ms:.1f} ms" if median_ms >= 1 else f"{median_ms:.3f} ms"


def _path(state_directory: Path, model: str) -> Path:
    return state_directory / MEASURED / f"{model}.json"


def _read(path: Path) -> VariantTimes | None:
    try:
        return wire.decode(path.read_bytes(), VariantTimes, what=str(path))
    except (OSError, MessageError):
        return None
