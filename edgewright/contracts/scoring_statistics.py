"""The statistics of a scoring server: the body of `GET /stats`, which the agent reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPercentiles:
    """Percentiles of the latency of the last scored requests, in milliseconds; None before the first one."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringStatistics:
    """Counts of one scoring server since its start."""

    model: str
    version: int
    variant: str
    backend: str
    precision: str
    count: int
    """Requests answered with a prediction."""
    samples: int
    """Samples in those requests."""
    errors: int
    """Valid requests that the model failed to answer."""
    rejected: int
    """Invalid requests; they are no evidence about the model."""
    latency_ms: LatencyPercentiles
    window_count: int
    """Requests that the percentiles are computed over."""
    predictions: dict[str, int]
    """Samples by predicted class."""

    @property
    def requests(self) -> int:
        """Valid requests, answered or failed."""
        return self.count + self.errors

    @property
    def error_share(self) -> float:
        """Errors per valid request, from 0 to 1."""
        return self.errors / self.requests if self.requests else 0.0
