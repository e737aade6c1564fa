"""The rules of a rollout, case by case; their laws are in test_rollout_laws.py."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cloud.rollouts.rules import (
    Candidate,
    Complete,
    Halt,
    Offer,
    OpenWave,
    Outcome,
    Rollout,
    Wait,
    give_back,
    next_step,
    plan_waves,
)
from edgewright.contracts.messages import DeploymentState, RolloutRequest, RolloutState
from edgewright.errors import BadInputError

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATER = START + timedelta(seconds=100)
UNTOUCHED = Outcome(state=None, since=START, online=True, online_since=START)
OFFERED = replace(UNTOUCHED, state=DeploymentState.OFFERED)
RUNNING = replace(UNTOUCHED, state=DeploymentState.RUNNING)
REFUSED = replace(UNTOUCHED, state=DeploymentState.REFUSED, reason="golden samples differ")
AWAY = replace(OFFERED, online=False)


def a_rollout(*waves: tuple[str, ...], wave: int = 0, **changes: object) -> Rollout:
    """Return a running rollout that wants everybody and waits for nothing."""
    plain = Rollout(
        state=RolloutState.RUNNING,
        waves=waves,
        wave=wave,
        success_threshold=1.0,
        soak_s=0,
        device_timeout_s=3600,
        rollback_on_halt=True,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def fleet(count: int, *, offline: tuple[int, ...] = ()) -> list[Candidate]:
    return [Candidate(f"d{number}", number not in offline) for number in range(count)]


def sizes(count: int, *waves: str) -> list[int]:
    return [len(wave) for wave in plan_waves(RolloutRequest(model="m", waves=waves), fleet(count), 1)]


@pytest.mark.parametrize(
    ("count", "waves", "expected"),
    [
        pytest.param(100, ("1", "25%", "100%"), [1, 24, 75], id="a count, then shares of all"),
        pytest.param(3, ("1", "25%", "100%"), [1, 2], id="a wave that would be empty is left out"),
        pytest.param(1, ("1", "25%", "100%"), [1], id="one device"),
        pytest.param(5, ("2", "10"), [2, 3], id="a count over the fleet means the fleet"),
        pytest.param(7, ("0.5%", "100%"), [1, 6], id="a share is rounded up"),
    ],
)
def test_waves_are_counted_from_the_start(count: int, waves: tuple[str, ...], expected: list[int]) -> None:
    assert sizes(count, *waves) == expected


def test_the_canary_is_the_same_for_one_version_and_another_for_others() -> None:
    request = RolloutRequest(model="digits")
    canaries = [plan_waves(request, fleet(10), version)[0] for version in range(1, 20)]
    assert canaries == [plan_waves(request, list(reversed(fleet(10))), version)[0] for version in range(1, 20)]
    assert len(set(canaries)) > 3


def test_the_canary_is_a_device_that_is_online() -> None:
    waves = plan_waves(RolloutRequest(model="digits"), fleet(4, offline=(0, 1, 3)), 1)
    assert waves[0] == ("d2",)


def test_named_devices_keep_their_order() -> None:
    request = RolloutRequest(model="digits", devices=("b", "a", "c"), waves=("1", "100%"))
    assert plan_waves(request, [Candidate("b", False), Candidate("a", True), Candidate("c", True)], 1) == (("b",), ("a", "c"))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        pytest.param({"waves": ("50%", "1")}, "waves are counted from the start and must not fall, but 50%,1 does", id="falling"),
        pytest.param(
            {"waves": ("1", "50%")},
            "the last wave must reach all 4 devices, but 50% ends at 2; let it be 100%, or choose fewer devices",
            id="not all",
        ),
        pytest.param(
            {"waves": ("0",)}, "a wave must be a count of devices or a share of them, as in 1 or 25%, not '0'", id="nobody"
        ),
        pytest.param(
            {"waves": ("101%",)},
            "a wave must be a count of devices or a share of them, as in 1 or 25%, not '101%'",
            id="too many",
        ),
        pytest.param({"waves": ()}, "a rollout needs at least one wave, as in 100%", id="no wave"),
        pytest.param({"success_threshold": 0.0}, "success_threshold must be over 0 and at most 1 (100%), not 0.0", id="no gate"),
        pytest.param({"soak_s": -1.0}, "soak_s and trial_s must be 0 or more, not -1 and 60", id="negative"),
        pytest.param(
            {"device_timeout_s": 60.0},
            "the device timeout must be longer than the trial: 60 s is not over 60 s",
            id="hasty",
        ),
        pytest.param(
            {"devices": ("d1",), "labels": {"a": "b"}},
            "a rollout is for named devices or for those with certain labels, not both; leave one out",
            id="both",
        ),
        pytest.param(
            {"devices": ("d1", "d1")}, "a rollout must name each device once; remove the one that is there twice", id="twice"
        ),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused(request_: dict[str, object], message: str) -> None:
    request = RolloutRequest(model="m", **request_)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=f"^{re.escape(message)}$"):
        plan_waves(request, fleet(4), 1)


def test_a_rollout_needs_a_device() -> None:
    with pytest.raises(BadInputError, match="needs at least one device, but none matches"):
        plan_waves(RolloutRequest(model="m"), [], 1)


def test_only_the_open_wave_is_offered_the_version() -> None:
    step = next_step(a_rollout(("a",), ("b", "c")), {"a": UNTOUCHED, "b": UNTOUCHED, "c": UNTOUCHED}, LATER)
    assert step == Offer(("a",))


def test_the_next_wave_opens_when_the_gate_holds() -> None:
    step = next_step(a_rollout(("a",), ("b",)), {"a": RUNNING, "b": UNTOUCHED}, LATER)
    assert step == OpenWave(1)


def test_a_wave_is_watched_from_when_its_gate_was_reached() -> None:
    rollout = a_rollout(("a", "b"), ("c",), soak_s=30)
    outcomes = {"a": RUNNING, "b": replace(RUNNING, since=START + timedelta(seconds=80)), "c": UNTOUCHED}
    assert next_step(rollout, outcomes, LATER) == Wait("wave 1 of 2 passed; watched until 12:01:50 UTC")
    assert next_step(rollout, outcomes, LATER + timedelta(seconds=10)) == OpenWave(1)


def test_one_bad_device_halts_a_rollout_that_wants_everybody_and_returns_the_others() -> None:
    rollout = a_rollout(("a",), ("b", "c", "d"), ("e",), wave=1)
    outcomes = {"a": RUNNING, "b": REFUSED, "c": OFFERED, "d": AWAY, "e": UNTOUCHED}
    assert next_step(rollout, outcomes, LATER) == Halt(
        "wave 2 of 3 can no longer reach 100% running: 1 of 3 bad: b refused: golden samples differ", give_back=("a", "c", "d")
    )


def test_a_halt_without_reversal_still_withdraws_what_was_not_carried_out() -> None:
    rollout = a_rollout(("a", "b", "c"))
    assert give_back(rollout, {"a": RUNNING, "b": REFUSED, "c": AWAY}, reverse=False) == ("c",)


def test_a_device_that_ran_nothing_before_is_not_returned() -> None:
    rollout = a_rollout(("a", "b"))
    assert give_back(rollout, {"a": replace(RUNNING, can_return=False), "b": RUNNING}, reverse=True) == ("b",)


def test_a_bad_device_within_the_allowance_stops_nothing() -> None:
    rollout = a_rollout(("a", "b", "c", "d"), success_threshold=0.75)
    step = next_step(rollout, {"a": REFUSED, "b": RUNNING, "c": RUNNING, "d": RUNNING}, LATER)
    assert step == Complete("3 of 4 devices run it; 1 failed, within what was allowed")


def test_a_rollout_halts_as_soon_as_the_gate_is_out_of_reach() -> None:
    rollout = a_rollout(("a", "b", "c", "d"), success_threshold=0.75)
    step = next_step(rollout, {"a": REFUSED, "b": REFUSED, "c": OFFERED, "d": OFFERED}, LATER)
    assert isinstance(step, Halt)


def test_a_device_that_fails_after_its_gate_had_held_still_halts_the_rollout() -> None:
    rollout = a_rollout(("a",), ("b",), wave=1)
    assert isinstance(next_step(rollout, {"a": replace(REFUSED, state=DeploymentState.FAILED), "b": OFFERED}, LATER), Halt)


def test_an_offline_device_holds_no_wave() -> None:
    assert next_step(a_rollout(("a", "b"), ("c",)), {"a": RUNNING, "b": AWAY, "c": UNTOUCHED}, LATER) == OpenWave(1)
    assert next_step(a_rollout(("a", "b")), {"a": RUNNING, "b": AWAY}, LATER) == Complete(
        "1 of 2 devices run it; 1 away, to take it on return"
    )


def test_a_wave_of_absent_devices_proves_nothing() -> None:
    step = next_step(a_rollout(("a",), ("b",)), {"a": AWAY, "b": UNTOUCHED}, LATER)
    assert step == Wait("wave 1 of 2: 0 of 1 running, 1 away; waiting for one to come online")


def test_a_device_that_is_online_and_silent_past_the_deadline_is_bad() -> None:
    rollout = a_rollout(("a",), device_timeout_s=100)
    assert next_step(rollout, {"a": OFFERED}, LATER - timedelta(seconds=1)) == Wait("wave 1 of 1: 0 of 1 running, 1 under way")
    assert next_step(rollout, {"a": OFFERED}, LATER) == Halt(
        "wave 1 of 1 can no longer reach 100% running: 1 of 1 bad: a made no step for 100 s, last offered", give_back=("a",)
    )


def test_the_deadline_counts_from_when_a_device_came_online() -> None:
    rollout = a_rollout(("a",), device_timeout_s=100)
    assert isinstance(next_step(rollout, {"a": replace(OFFERED, online_since=START + timedelta(seconds=90))}, LATER), Wait)


def test_a_device_that_vanished_in_the_middle_of_the_switch_is_bad_although_it_is_offline() -> None:
    rollout = a_rollout(("a",), device_timeout_s=100)
    vanished = replace(AWAY, state=DeploymentState.TRIAL, online_since=START + timedelta(seconds=50))
    assert isinstance(next_step(rollout, {"a": vanished}, LATER), Halt)


def test_a_paused_rollout_offers_nothing_but_still_halts() -> None:
    rollout = a_rollout(("a", "b"), state=RolloutState.PAUSED)
    assert isinstance(next_step(rollout, {"a": RUNNING, "b": UNTOUCHED}, LATER), Wait)
    assert isinstance(next_step(rollout, {"a": REFUSED, "b": UNTOUCHED}, LATER), Halt)


def test_a_device_of_hardware_on_which_the_version_failed_is_bad_without_being_offered_it() -> None:
    rollout = a_rollout(("a",), ("b",), wave=1)
    barred = replace(UNTOUCHED, barred="refused on pi-4 by a: too slow")
    assert next_step(rollout, {"a": RUNNING, "b": barred}, LATER) == Halt(
        "wave 2 of 2 can no longer reach 100% running: 1 of 1 bad: b must not have it: refused on pi-4 by a: too slow",
        give_back=("a",),
    )


def test_a_revoked_device_is_offered_nothing_and_holds_nothing() -> None:
    step = next_step(a_rollout(("a", "b")), {"a": RUNNING, "b": replace(UNTOUCHED, revoked=True)}, LATER)
    assert isinstance(step, Complete)


def test_a_rollout_is_not_complete_while_somebody_is_under_way() -> None:
    step = next_step(a_rollout(("a", "b"), success_threshold=0.5), {"a": RUNNING, "b": OFFERED}, LATER)
    assert step == Wait("every gate has held; 1 under way")
