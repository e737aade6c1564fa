"""Request and result of a load; imports no library, unlike `load.py`, which runs in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """The requests, their destination and their rate."""

    host: str
    port: int
    requests: tuple[str, ...]
    """Files with the bytes of one HTTP request each, sent in turn."""
    rate: float
    """Requests per second."""
    warm_up_s: float = 1.0
    """Time of the same load before it is measured."""
    seconds: float = 5.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """Answers and latencies of a load; a request that failed or was not answered counts as the slowest."""

    rate: float
    """Requests per second that were asked for."""
    sent: int
    answered: int
    """Requests with status 200."""
    failures: dict[str, int] = field(default_factory=dict)
    """Other requests, by status, or `no answer` or `no connection`."""
    percentiles_ms: dict[str, float | None] = field(default_factory=dict)
    """Latency in milliseconds by percentile; None if that many requests failed."""
    lag_ms: float = 0.0
    """99th percentile of the delay between the time of a request and its sending, in ms, while a connection was free."""

    @property
    def failed_share(self) -> float:
        """Share of the requests that failed, from 0 to 1."""
        return 1.0 - self.answered / self.sent if self.sent else 0.0
