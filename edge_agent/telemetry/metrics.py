"""What the agent measures of itself, the machine and the runner."""

from __future__ import annotations

from contextlib import suppress

import psutil

from edge_agent.telemetry.outbox import Reading
from edgewright.contracts.scoring_statistics import ScoringStatistics


def read_metrics(
    *, runner_pid: int | None, scoring: ScoringStatistics | None, dropped: int, labels: dict[str, str]
) -> list[Reading]:
    """Return the readings of this moment; what is not known is left out."""
    readings = [
        Reading(name="cpu", value=psutil.cpu_percent(), unit="percent"),
        Reading(name="memory_available", value=float(psutil.virtual_memory().available), unit="bytes"),
        Reading(name="agent_rss", value=float(psutil.Process().memory_info().rss), unit="bytes"),
        Reading(name="telemetry_dropped", value=float(dropped), unit="measurements"),
    ]
    if runner_pid is not None:
        with suppress(psutil.NoSuchProcess):
            rss = float(psutil.Process(runner_pid).memory_info().rss)
            readings.append(Reading(name="runner_rss", value=rss, unit="bytes", labels=labels))
    if scoring is not None:
        readings.append(Reading(name="scored", value=float(scoring.requests), unit="requests", labels=labels))
        readings.append(Reading(name="errors", value=float(scoring.errors), unit="requests", labels=labels))
        if scoring.latency_ms.p95 is not None:
            readings.append(Reading(name="latency_p95", value=scoring.latency_ms.p95, unit="milliseconds", labels=labels))
    return readings
