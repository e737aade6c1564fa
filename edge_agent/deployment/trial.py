"""Judge a version on trial by the behaviour of its runner, compared with the previous version; a pure rule.

Error shares and latencies count only with enough requests for both versions. With fewer requests the version passes if its
runner stays up and answers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgewright.contracts.messages import FailureCause
from edgewright.contracts.scoring_statistics import ScoringStatistics

MIN_REQUESTS = 20
MAX_CRASHES = 1
MAX_UNRESPONSIVE_S = 10.0
MAX_ERROR_SHARE = 0.05
MAX_ERROR_RATIO = 2.0
MAX_LATENCY_RATIO = 3.0
MIN_TIMED_REQUESTS = 100
"""With fewer requests the 95th percentile is dominated by the first requests of a new process."""
LATENCY_FLOOR_MS = 25.0
"""Latencies below this always pass: on a busy machine the latency of a fast model varies by ten milliseconds."""


class Verdict(enum.Enum):
    """The outcome of a trial so far."""

    WATCH = "watch"
    COMMIT = "commit"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Observations of a version on trial."""

    elapsed_s: float
    crashes: int
    killed: int = 0
    """The part of `crashes` that the device caused: killed from outside, or not started."""
    unresponsive_s: float
    """Seconds since the runner stopped answering; 0 while it answers."""
    scoring: ScoringStatistics | None
    before: ScoringStatistics | None
    """Statistics of the previous version; None if there is no previous version, or if they are unknown."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and its reason."""

    verdict: Verdict
    reason: str
    cause: FailureCause | None = None
    """Cause of a roll-back; timing on a busy device is no evidence against the package."""


def judge(evidence: Evidence, trial_s: float) -> Judgement:
    """Return whether to commit the version, roll it back, or continue to watch it."""
    fault = _fault(evidence)
    if fault is not None:
        return Judgement(Verdict.ROLL_BACK, *fault)
    if evidence.unresponsive_s > 0 or evidence.elapsed_s < trial_s:
        return Judgement(Verdict.WATCH, f"on trial for {evidence.elapsed_s:.0f} of {trial_s:g} s")
    scored = evidence.scoring.requests if evidence.scoring else 0
    return Judgement(Verdict.COMMIT, f"passed its trial of {trial_s:g} s with {scored} requests")


def _fault(evidence: Evidence) -> tuple[str, FailureCause] | None:
    if evidence.crashes > MAX_CRASHES:
        own = evidence.crashes - evidence.killed
        reason = f"the runner must stay up, but it exited {evidence.crashes} times during the trial"
        return reason, FailureCause.PACKAGE if own > MAX_CRASHES else FailureCause.DEVICE
    if evidence.unresponsive_s >= MAX_UNRESPONSIVE_S:
        reason = f"the runner must answer, but it did not for {evidence.unresponsive_s:.0f} s during the trial"
        return reason, FailureCause.DEVICE
    now, before = evidence.scoring, evidence.before
    if now is None or now.requests < MIN_REQUESTS:
        return None
    allowed = max(MAX_ERROR_SHARE, MAX_ERROR_RATIO * before.error_share if before else 0.0)
    if now.error_share > allowed:
        share = f"the share of errors must be at most {allowed:.1%}, but it was {now.error_share:.1%} of {now.requests} requests"
        return share, FailureCause.PACKAGE
    slow = _too_slow(now, before)
    return None if slow is None else (slow, FailureCause.DEVICE)


def _too_slow(now: ScoringStatistics, before: ScoringStatistics | None) -> str | None:
    if before is None or before.latency_ms.p95 is None or now.latency_ms.p95 is None:
        return None
    if min(before.requests, now.requests) < MIN_TIMED_REQUESTS:
        return None
    allowed_ms = max(before.latency_ms.p95 * MAX_LATENCY_RATIO, LATENCY_FLOOR_MS)
    if now.latency_ms.p95 <= allowed_ms:
        return None
    return (
        f"latency p95 must be at most {allowed_ms:.1f} ms ({MAX_LATENCY_RATIO:g} times the previous version), "
        f"but it was {now.latency_ms.p95:.1f} ms over {now.requests} requests"
    )
