"""Times of the runs of a model: waiting, running and failing, in total and by batch size."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_BATCH_SIZES = 256
"""Number of batch sizes that are counted apart; runs of further sizes count in the totals only."""


@dataclass(slots=True)
class Duration:
    """Number of events and their seconds in total."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count `count` events that took `seconds` together."""
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class RunTimes:
    """Times since the start; those of a request that shared its run count the whole run."""

    waited: Duration = field(default_factory=Duration)
    """Time of requests between their arrival and their run."""
    ran: Duration = field(default_factory=Duration)
    """Time of requests in the model."""
    failed: Duration = field(default_factory=Duration)
    """Time of requests whose run failed, from their arrival."""
    by_samples: dict[int, Duration] = field(default_factory=dict)
    """Runs by their number of samples."""

    def add_run(self, samples: int, seconds: float) -> None:
        """Count one run of the model."""
        duration = self.by_samples.get(samples)
        if duration is None:
            if len(self.by_samples) == MAX_BATCH_SIZES:
                return
            duration = self.by_samples[samples] = Duration()
        duration.add(seconds)
