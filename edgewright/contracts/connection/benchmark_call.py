"""The benchmark job that an acknowledgement of telemetry names; its content is in `benchmark_jobs.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgewright.errors import MessageError


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkCall:
    """An open benchmark job of a device, which asks for its content over HTTPS; see `benchmark_jobs.py`."""

    job: int
    budget_s: float
    """Longest time in which the device pulls and measures."""

    def __post_init__(self) -> None:
        if self.job < 1 or not 0 < self.budget_s < math.inf:
            raise MessageError(f"a benchmark job must have a number from 1 and over 0 s, not {self.job} and {self.budget_s:g} s")
