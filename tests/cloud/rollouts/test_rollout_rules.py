"""The rules of a rollout, case by case; test_rollout_laws.py states their laws."""

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
    devices_to_restore,
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
OFFLINE = replace(OFFERED, online=False)


def a_rollout(*waves: tuple[str, ...], wave: int = 0, **changes: object) -> Rollout:
    """Return a running rollout with a success threshold of 100% and no soak time."""
    rollout = Rollout(
        state=RolloutState.RUNNING,
        waves=waves,
        wave=wave,
        success_threshold=1.0,
        soak_s=0,
        device_timeout_s=3600,
        rollback_on_halt=True,
    )
    return replace(rollout, **changes)  # type: ignore[arg-type]


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
        pytest.param({"waves": ("50%", "1")}, "waves are cumulative and must not decrease, but 50%,1 does", id="decreasing"),
        pytest.param(
            {"waves": ("1", "50%")},
            "the last wave must reach all 4 devices, but 50% ends at 2; use 100%, or select fewer devices",
            id="not all",
        ),
        pytest.param(
            {"waves": ("0",)}, "a wave must be a number or a percentage of devices, such as 1 or 25%, not '0'", id="no device"
        ),
        pytest.param(
            {"waves": ("101%",)},
            "a wave must be a number or a percentage of devices, such as 1 or 25%, not '101%'",
            id="too many",
        ),
        pytest.param({"waves": ()}, "a rollout needs at least one wave, such as 100%", id="no wave"),
        pytest.param(
            {"success_threshold": 0.0}, "success_threshold must be greater than 0 and at most 1 (100%), not 0.0", id="no gate"
        ),
        pytest.param({"soak_s": -1.0}, "soak_s and trial_s must be 0 or more, not -1 and 60", id="negative"),
        pytest.param(
            {"device_timeout_s": 60.0},
            "the device timeout (60 s) must be longer than the trial (60 s)",
            id="timeout too short",
        ),
        pytest.param(
            {"devices": ("d1",), "labels": {"a": "b"}},
            "a rollout must select devices by name or by label, not both: leave one out",
            id="both",
        ),
        pytest.param({"devices": ("d1", "d1")}, "a rollout must name each device once: remove the duplicate", id="twice"),
    ],
)
def test_an_invalid_request_is_refused(request_: dict[str, object], message: str) -> None:
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


def test_the_soak_starts_when_the_gate_is_reached() -> None:
    rollout = a_rollout(("a", "b"), ("c",), soak_s=30)
    outcomes = {"a": RUNNING, "b": replace(RUNNING, since=START + timedelta(seconds=80)), "c": UNTOUCHED}
    assert next_step(rollout, outcomes, LATER) == Wait("wave 1 of 2 passed; soak ends at 12:01:50 UTC")
    assert next_step(rollout, outcomes, LATER + timedelta(seconds=10)) == OpenWave(1)


def test_one_failed_device_halts_a_rollout_with_a_threshold_of_100_percent_and_the_others_are_restored() -> None:
    rollout = a_rollout(("a",), ("b", "c", "d"), ("e",), wave=1)
    outcomes = {"a": RUNNING, "b": REFUSED, "c": OFFERED, "d": OFFLINE, "e": UNTOUCHED}
    assert next_step(rollout, outcomes, LATER) == Halt(
        "wave 2 of 3 can no longer reach 100% running: 1 of 3 failed: b refused: golden samples differ",
        devices_to_restore=("a", "c", "d"),
    )


def test_a_halt_without_rollback_still_withdraws_open_offers() -> None:
    rollout = a_rollout(("a", "b", "c"))
    assert devices_to_restore(rollout, {"a": RUNNING, "b": REFUSED, "c": OFFLINE}, rollback=False) == ("c",)


def test_a_device_without_a_previous_version_is_not_restored() -> None:
    rollout = a_rollout(("a", "b"))
    assert devices_to_restore(rollout, {"a": replace(RUNNING, can_be_restored=False), "b": RUNNING}, rollback=True) == ("b",)


def test_a_failure_within_the_success_threshold_does_not_halt_the_rollout() -> None:
    rollout = a_rollout(("a", "b", "c", "d"), success_threshold=0.75)
    step = next_step(rollout, {"a": REFUSED, "b": RUNNING, "c": RUNNING, "d": RUNNING}, LATER)
    assert step == Complete("3 of 4 devices running; 1 failed (allowed by the success threshold)")


def test_a_rollout_halts_as_soon_as_the_gate_is_out_of_reach() -> None:
    rollout = a_rollout(("a", "b", "c", "d"), success_threshold=0.75)
    step = next_step(rollout, {"a": REFUSED, "b": REFUSED, "c": OFFERED, "d": OFFERED}, LATER)
    assert isinstance(step, Halt)


def test_a_device_that_fails_after_its_gate_had_held_still_halts_the_rollout() -> None:
    rollout = a_rollout(("a",), ("b",), wave=1)
    assert isinstance(next_step(rollout, {"a": replace(REFUSED, state=DeploymentState.FAILED), "b": OFFERED}, LATER), Halt)


def test_an_offline_device_does_not_delay_its_wave() -> None:
    assert next_step(a_rollout(("a", "b"), ("c",)), {"a": RUNNING, "b": OFFLINE, "c": UNTOUCHED}, LATER) == OpenWave(1)
    assert next_step(a_rollout(("a", "b")), {"a": RUNNING, "b": OFFLINE}, LATER) == Complete(
        "1 of 2 devices running; 1 offline, will install it when back online"
    )


def test_a_wave_of_offline_devices_does_not_pass() -> None:
    step = next_step(a_rollout(("a",), ("b",)), {"a": OFFLINE, "b": UNTOUCHED}, LATER)
    assert step == Wait("wave 1 of 2: 0 of 1 running, 1 offline; waiting for a device to come online")


def test_a_device_that_is_online_and_silent_past_the_timeout_has_failed() -> None:
    rollout = a_rollout(("a",), device_timeout_s=100)
    assert next_step(rollout, {"a": OFFERED}, LATER - timedelta(seconds=1)) == Wait("wave 1 of 1: 0 of 1 running, 1 in progress")
    assert next_step(rollout, {"a": OFFERED}, LATER) == Halt(
        "wave 1 of 1 can no longer reach 100% running: 1 of 1 failed: a made no progress for 100 s, last state offered",
        devices_to_restore=("a",),
    )


def test_the_timeout_starts_when_a_device_comes_online() -> None:
    rollout = a_rollout(("a",), device_timeout_s=100)
    assert isinstance(next_step(rollout, {"a": replace(OFFERED, online_since=START + timedelta(seconds=90))}, LATER), Wait)


def test_a_device_that_goes_offline_during_the_switch_fails_after_the_timeout() -> None:
    rollout = a_rollout(("a",), device_timeout_s=100)
    switching = replace(OFFLINE, state=DeploymentState.TRIAL, online_since=START + timedelta(seconds=50))
    assert isinstance(next_step(rollout, {"a": switching}, LATER), Halt)


def test_a_paused_rollout_offers_nothing_but_still_halts() -> None:
    rollout = a_rollout(("a", "b"), state=RolloutState.PAUSED)
    assert isinstance(next_step(rollout, {"a": RUNNING, "b": UNTOUCHED}, LATER), Wait)
    assert isinstance(next_step(rollout, {"a": REFUSED, "b": UNTOUCHED}, LATER), Halt)


def test_a_device_of_hardware_on_which_the_version_failed_is_blocked() -> None:
    rollout = a_rollout(("a",), ("b",), wave=1)
    blocked = replace(UNTOUCHED, blocked_reason="refused on pi-4 by a: too slow")
    assert next_step(rollout, {"a": RUNNING, "b": blocked}, LATER) == Halt(
        "wave 2 of 2 can no longer reach 100% running: 1 of 1 blocked: b blocked: refused on pi-4 by a: too slow",
        devices_to_restore=("a",),
    )


def test_a_revoked_device_is_offered_nothing_and_delays_nothing() -> None:
    step = next_step(a_rollout(("a", "b")), {"a": RUNNING, "b": replace(UNTOUCHED, revoked=True)}, LATER)
    assert isinstance(step, Complete)


def test_a_rollout_is_not_complete_while_a_device_is_in_progress() -> None:
    step = next_step(a_rollout(("a", "b"), success_threshold=0.5), {"a": RUNNING, "b": OFFERED}, LATER)
    assert step == Wait("all waves passed; 1 in progress")
