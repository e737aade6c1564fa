"""The reason why a version does not fit beside the other workloads names who would have to give way."""

from __future__ import annotations

import pytest

from edge_agent.deployment.budget import Use, refusal, would_give_way

OTHERS = (Use("small", 20_000_000), Use("large", 600_000_000), Use("stopped", 0))


def test_the_largest_other_workloads_would_give_way() -> None:
    reason = refusal("ocr:2", needed_bytes=812_000_000, free_bytes=300_400_000, others=OTHERS)
    assert reason == (
        "ocr:2 needs 812 MB of memory beside the other workloads, but 300 MB are free: "
        "large (600 MB) or small (20 MB) would have to give way"
    )


@pytest.mark.parametrize(
    ("needed_bytes", "others"),
    [
        pytest.param(300, OTHERS, id="it fits"),
        pytest.param(301, (), id="no other workload"),
        pytest.param(301, (Use("stopped", 0),), id="no other workload runs"),
    ],
)
def test_nothing_is_refused_without_need(needed_bytes: int, others: tuple[Use, ...]) -> None:
    assert refusal("ocr:2", needed_bytes=needed_bytes, free_bytes=300, others=others) is None


def test_a_limit_below_the_use_of_the_others_leaves_nothing_free() -> None:
    reason = refusal("ocr:2", needed_bytes=1, free_bytes=-5, others=(Use("large", 1_500_000),))
    assert reason is not None
    assert reason.endswith("but 0.0 MB are free: large (1.5 MB) would have to give way")


def test_without_others_the_reason_names_none() -> None:
    assert would_give_way(()) == ""
