"""Benchmark results of each model's variants on this device, reused so that the next version needs only one variant's bytes.

    measured/<model>.json     one record per model, replaced atomically; a damaged record is ignored

A record is valid as long as its basis is the same: the fitting variants, the machine, and the software that runs them.
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
    """Benchmark results of one model's variants on this device: milliseconds per sample."""

    model: str
    version: int
    """The measured version."""
    measured_at: datetime
    basis: Digest
    """Digest of everything that the times depend on (`measure.basis_of`)."""
    fastest: str
    median_ms: dict[str, float]
    failures: dict[str, str]
    """Reasons why other fitting variants have no time."""
    measured_by: str = ""
    """The device with the same machine that measured; empty for this one."""

    def __post_init__(self) -> None:
        if self.fastest not in self.median_ms:
            raise MessageError(f"the fastest variant of {self.model} must have a measured time, but {self.fastest!r} has none")


def load(state_directory: Path, model: str, basis: Digest) -> VariantTimes | None:
    """Return the results of `model`; None if there are none on this basis."""
    times = _read(_path(state_directory, model))
    return times if times is not None and times.basis == basis else None


def store(state_directory: Path, times: VariantTimes) -> None:
    """Store results in place of the model's earlier ones.

    Raises:
        StorageFullError: the disk is full.
    """
    write_atomically(_path(state_directory, times.model), wire.encode(times))


def load_all(state_directory: Path) -> tuple[VariantTimes, ...]:
    """Return the results of all models, sorted by name."""
    results = (_read(path) for path in sorted((state_directory / MEASURED).glob("*.json")))
    return tuple(times for times in results if times is not None)


def reset(state_directory: Path, model: str | None) -> tuple[str, ...]:
    """Delete the results of `model`, or of every model; return the names of these models.

    Raises:
        NotFoundError: there are no results of `model`.
    """
    records = {path.stem: path for path in sorted((state_directory / MEASURED).glob("*.json"))}
    if model is not None and model not in records:
        raise NotFoundError(f"{model!r} must have benchmark results, but it does not{nearest(model, records)}")
    models = tuple(records) if model is None else (model,)
    for name in models:
        records[name].unlink(missing_ok=True)
    return models


def format_ms(median_ms: float) -> str:
    """Format a time with its significant digits and unit."""
    return f"{median_ms:.1f} ms" if median_ms >= 1 else f"{median_ms:.3f} ms"


def _path(state_directory: Path, model: str) -> Path:
    return state_directory / MEASURED / f"{model}.json"


def _read(path: Path) -> VariantTimes | None:
    try:
        return wire.decode(path.read_bytes(), VariantTimes, what=str(path))
    except (OSError, MessageError):
        return None
