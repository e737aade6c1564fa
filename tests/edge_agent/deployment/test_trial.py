"""A trial commits, continues or rolls back, and uses error shares and latencies only with enough requests."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.deployment.trial import Evidence, Verdict, judge
from edgewright.contracts.messages import FailureCause
from edgewright.contracts.scoring_statistics import LatencyPercentiles, ScoringStatistics


def evidence(**changes: Any) -> Evidence:
    defaults: dict[str, Any] = {"elapsed_s": 60.0, "crashes": 0, "unresponsive_s": 0.0, "scoring": scoring(), "before": scoring()}
    return Evidence(**(defaults | changes))


def scoring(requests: int = 100, errors: int = 0, p95_ms: float | None = 10.0) -> ScoringStatistics:
    return ScoringStatistics(
        model="digits",
        version=1,
        variant="fp32",
        backend="onnxruntime",
        precision="fp32",
        count=requests - errors,
        samples=requests - errors,
        errors=errors,
        rejected=0,
        latency_ms=LatencyPercentiles(p50=p95_ms, p95=p95_ms, p99=p95_ms),
        window_count=requests - errors,
        predictions={},
    )


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(evidence(), id="as good as before"),
        pytest.param(evidence(scoring=None, before=None), id="no statistics"),
        pytest.param(evidence(crashes=1), id="one crash"),
        pytest.param(evidence(scoring=scoring(19, 19)), id="too few requests for a share"),
        pytest.param(evidence(scoring=scoring(100, 5)), id="errors within what is allowed"),
        pytest.param(evidence(scoring=scoring(100, 20), before=scoring(100, 10)), id="twice the errors of before"),
        pytest.param(evidence(scoring=scoring(p95_ms=30)), id="three times as slow"),
        pytest.param(evidence(scoring=scoring(p95_ms=24), before=scoring(p95_ms=0.5)), id="slow within noise"),
        pytest.param(evidence(scoring=scoring(p95_ms=500), before=scoring(99)), id="too few requests before"),
        pytest.param(evidence(scoring=scoring(99, p95_ms=500)), id="too few timed requests"),
        pytest.param(evidence(scoring=scoring(p95_ms=None)), id="no latency known"),
    ],
)
def test_a_good_version_is_committed_after_its_trial(observed: Evidence) -> None:
    assert judge(observed, 60).verdict is Verdict.COMMIT


@pytest.mark.parametrize(
    ("observed", "reason"),
    [
        (evidence(elapsed_s=1, crashes=2), "the runner must stay up, but it exited 2 times during the trial"),
        (evidence(elapsed_s=12, unresponsive_s=12), "the runner must answer, but it did not for 12 s during the trial"),
        (evidence(scoring=scoring(100, 6)), "the share of errors must be at most 5.0%, but it was 6.0% of 100 requests"),
        (
            evidence(scoring=scoring(p95_ms=31)),
            "latency p95 must be at most 30.0 ms (3 times the previous version), but it was 31.0 ms over 100 requests",
        ),
    ],
    ids=["crashes", "unresponsive", "errors", "slow"],
)
def test_a_fault_rolls_back_at_once_with_its_reason(observed: Evidence, reason: str) -> None:
    judgement = judge(observed, 60)
    assert (judgement.verdict, judgement.reason) == (Verdict.ROLL_BACK, reason)


def test_a_trial_continues_until_its_time_is_up() -> None:
    assert judge(evidence(elapsed_s=59), 60).verdict is Verdict.WATCH


def test_a_version_whose_runner_does_not_answer_is_not_committed_yet() -> None:
    assert judge(evidence(elapsed_s=61, unresponsive_s=2), 60).verdict is Verdict.WATCH


@pytest.mark.parametrize(
    ("observed", "cause"),
    [
        pytest.param(evidence(crashes=2), FailureCause.PACKAGE, id="two crashes of its own"),
        pytest.param(evidence(crashes=2, killed=2), FailureCause.DEVICE, id="killed twice, as the kernel does without memory"),
        pytest.param(evidence(crashes=3, killed=2), FailureCause.DEVICE, id="one crash of its own is allowed"),
        pytest.param(evidence(unresponsive_s=12), FailureCause.DEVICE, id="unresponsive"),
        pytest.param(evidence(scoring=scoring(100, 6)), FailureCause.PACKAGE, id="errors"),
        pytest.param(evidence(scoring=scoring(p95_ms=31)), FailureCause.DEVICE, id="slow, perhaps on a busy machine"),
    ],
)
def test_only_crashes_and_errors_of_the_model_are_evidence_against_the_package(observed: Evidence, cause: FailureCause) -> None:
    judgement = judge(observed, 60)
    assert (judgement.verdict, judgement.cause) == (Verdict.ROLL_BACK, cause)
