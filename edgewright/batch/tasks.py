"""A task: the part of the input whose results are one part of the output, and which runs as a whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgewright.batch.job import InputKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The files and rows that one task reads."""

    number: int
    kind: InputKind
    paths: tuple[str, ...]
    """The files of `files`; the one file of a table; with partition keys every file that has the key."""
    count: int | None
    """Files or rows; None for a CSV file, whose rows are counted when they are read."""
    units: tuple[int, ...] = ()
    """Row groups (Parquet) or record batches (Arrow); empty for the whole file."""
    key: dict[str, Any] | None = None
    """Values of the partition keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Items that were not scored."""

    item: str
    """The file, or the rows as `FILE rows 0-99`."""
    count: int
    error: str
    mini_batch: int | None = None
    """Number in its task, if the whole mini-batch failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a task: its part is stored, and these are its counts."""

    task: int
    count: int
    succeeded: int
    mini_batches: int
    failures: tuple[Failure, ...] = ()
    row_count: int = 0
    """Rows of the part."""
    run_s: float = 0.0
    worker: str = ""
    cpu_s: float = 0.0
    """Processor time of the worker process for this task; 0 for a thread."""
