"""Whether a version on trial stays: decided from what its runner did, beside what the version before did.

A share of errors or a latency says something only with enough requests behind it on both sides; without them the version is
judged by living and answering alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgewright.contracts.scoring_statistics import ScoringStatistics

MIN_REQUESTS = 20
MAX_CRASHES = 1
MAX_SILENT_S = 10.0
MAX_ERROR_SHARE = 0.05
MAX_ERROR_RATIO = 2.0
MAX_LATENCY_RATIO = 3.0
MIN_TIMED_REQUESTS = 100
"""The 95th percentile of fewer is mostly the first requests of a fresh process."""
LATENCY_FLOOR_MS = 25.0
"""A latency below this is never too slow by ratio: on a busy machine a fast model swings by ten milliseconds."""


class Verdict(enum.Enum):
    """What a trial has shown so far."""

    WATCH = "watch"
    COMMIT = "commit"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was seen of a version on trial."""

    elapsed_s: float
    crashes: int
    silent_s: float
    """For how long the runner has not answered."""
    scoring: ScoringStatistics | None
    before: ScoringStatistics | None
    """The same figures of the version before; None when nothing ran or nothing is known."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and its reason."""

    verdict: Verdict
    reason: str


def judge(evidence: Evidence, trial_s: float) -> Judgement:
    """Commit, roll back, or watch on."""
    fault = _fault(evidence)
    if fault is not None:
        return Judgement(Verdict.ROLL_BACK, fault)
    if evidence.silent_s > 0 or evidence.elapsed_s < trial_s:
        return Judgement(Verdict.WATCH, f"on trial for {evidence.elapsed_s:.0f} of {trial_s:g} s")
    scored = evidence.scoring.requests if evidence.scoring else 0
    return Judgement(Verdict.COMMIT, f"passed its trial of {trial_s:g} s with {scored} requests")


def _fault(evidence: Evidence) -> str | None:
    if evidence.crashes > MAX_CRASHES:
        return f"the runner must stay up, but it ended {evidence.crashes} times during the trial"
    if evidence.silent_s >= MAX_SILENT_S:
        return f"the runner must answer, but it was silent for {evidence.silent_s:.0f} s during the trial"
    now, before = evidence.scoring, evidence.before
    if now is None or now.requests < MIN_REQUESTS:
        return None
    allowed = max(MAX_ERROR_SHARE, MAX_ERROR_RATIO * before.error_share if before else 0.0)
    if now.error_share > allowed:
        return f"the share of errors must be at most {allowed:.1%}, but it was {now.error_share:.1%} of {now.requests} requests"
    return _too_slow(now, before)


def _too_slow(now: ScoringStatistics, before: ScoringStatistics | None) -> str | None:
    if before is None or before.latency_ms.p95 is None or now.latency_ms.p95 is None:
        return None
    if min(before.requests, now.requests) < MIN_TIMED_REQUESTS:
        return None
    allowed_ms = max(before.latency_ms.p95 * MAX_LATENCY_RATIO, LATENCY_FLOOR_MS)
    if now.latency_ms.p95 <= allowed_ms:
        return None
    return (
        f"latency p95 must be at most {allowed_ms:.1f} ms ({MAX_LATENCY_RATIO:g} times the version before), "
        f"but it was {now.latency_ms.p95:.1f} ms over {now.requests} requests"
    )
