"""Laws of every rollout, whatever the devices report: random histories of a small fleet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.rollouts.rules import (
    Candidate,
    Complete,
    Halt,
    Offer,
    OpenWave,
    Outcome,
    Rollout,
    Step,
    Wait,
    next_step,
    plan_waves,
)
from edgewright.contracts.messages import DeploymentState, RolloutRequest, RolloutState

START = datetime(2026, 3, 1, tzinfo=UTC)
WAVES = [("100%",), ("1", "100%"), ("1", "25%", "100%"), ("10%", "20%", "60%", "100%"), ("2", "3", "99")]
TIMEOUT_S = 100
FAILURES = {DeploymentState.REFUSED, DeploymentState.ROLLED_BACK, DeploymentState.FAILED}
ENDS = FAILURES | {DeploymentState.RUNNING, DeploymentState.SUPERSEDED}
SWITCH = {DeploymentState.SWITCHING, DeploymentState.TRIAL, DeploymentState.ROLLING_BACK}
REPORTS = [state for state in DeploymentState if state is not DeploymentState.OFFERED]
History = list[tuple[int, DeploymentState | None, bool, int]]
"""Reports: the number of the device, its state (None: unchanged), its presence, and the seconds since the last report."""
law = settings(max_examples=200, deadline=None)


@dataclass
class World:
    """The tables of the engine in memory: everything that survives a crash."""

    rollout: Rollout
    outcomes: dict[str, Outcome]
    now: datetime = START
    touched: set[str] = field(default_factory=set)

    def step(self) -> Step:
        return next_step(self.rollout, self.outcomes, self.now)

    def apply(self, step: Step) -> None:
        """Carry out a step as the engine does."""
        match step:
            case Offer(devices):
                for device in devices:
                    self.touched.add(device)
                    self.outcomes[device] = replace(self.outcomes[device], state=DeploymentState.OFFERED, since=self.now)
            case OpenWave(wave):
                self.rollout = replace(self.rollout, wave=wave)
            case Halt():
                self.rollout = replace(self.rollout, state=RolloutState.HALTED)
            case Complete():
                self.rollout = replace(self.rollout, state=RolloutState.COMPLETED)
            case Wait():
                pass

    def settle(self) -> list[Step]:
        """Apply steps until the rules wait; more steps than devices and waves would be an endless loop."""
        steps = []
        for _ in range(3 * len(self.outcomes) + 3):
            step = self.step()
            self.apply(step)
            steps.append(step)
            if isinstance(step, Wait):
                return steps
        raise AssertionError(f"the steps do not end: {steps}")

    def report(self, device: str, state: DeploymentState | None, online: bool, seconds: int) -> None:
        """Advance the time and store a report; its state counts only if the device was offered the version."""
        self.now += timedelta(seconds=seconds)
        outcome = self.outcomes[device]
        if state is not None and outcome.state is not None and outcome.state is not state:
            outcome = replace(outcome, state=state, since=self.now, reason="scripted")
        if online is not outcome.online:
            outcome = replace(outcome, online=online, online_since=self.now)
        self.outcomes[device] = outcome

    def allowed(self) -> set[str]:
        """Return the devices of the open waves."""
        return {device for wave in self.rollout.waves[: self.rollout.wave + 1] for device in wave}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 12))
    candidates = [Candidate(f"d{number}", draw(st.booleans())) for number in range(count)]
    request = RolloutRequest(
        model="m",
        waves=draw(st.sampled_from(WAVES)),
        success_threshold=draw(st.sampled_from([0.3, 0.5, 0.9, 1.0])),
        soak_s=draw(st.sampled_from([0, 30])),
        device_timeout_s=TIMEOUT_S,
    )
    rollout = Rollout(
        state=RolloutState.RUNNING,
        waves=plan_waves(request, candidates, draw(st.integers(1, 50))),
        wave=0,
        success_threshold=request.success_threshold,
        soak_s=request.soak_s,
        device_timeout_s=request.device_timeout_s,
        rollback_on_halt=True,
    )
    reasons = st.sampled_from(["", "", "", "failed before"])
    outcomes = {
        each.device: Outcome(state=None, since=START, online=each.online, online_since=START, blocked_reason=draw(reasons))
        for each in candidates
    }
    return World(rollout, outcomes)


@st.composite
def histories(draw: st.DrawFn) -> History:
    anything = st.tuples(st.integers(0, 11), st.sampled_from([*REPORTS, None]), st.booleans(), st.sampled_from([0, 1, 40, 101]))
    success = st.tuples(st.integers(0, 11), st.just(DeploymentState.RUNNING), st.just(True), st.just(5))
    presence = st.tuples(st.integers(0, 11), st.none(), st.booleans(), st.sampled_from([1, 60]))
    kinds: Sequence[st.SearchStrategy[Any]] = draw(
        st.sampled_from([[anything], [success, presence], [presence], [anything, success, presence]])
    )
    return draw(st.lists(st.one_of(kinds), min_size=draw(st.integers(0, 20)), max_size=30))


def play(world: World, history: History) -> None:
    world.settle()
    for number, state, online, seconds in history:
        world.report(f"d{number % len(world.outcomes)}", state, online, seconds)
        world.settle()


@law
@given(worlds())
def test_waves_divide_the_fleet(world: World) -> None:
    devices = [device for wave in world.rollout.waves for device in wave]
    assert sorted(devices) == sorted(world.outcomes)
    assert all(world.rollout.waves)


@law
@given(worlds(), histories())
def test_never_more_devices_are_touched_than_the_open_waves_allow(world: World, history: History) -> None:
    world.settle()
    for number, state, online, seconds in history:
        assert world.touched <= world.allowed()
        world.report(f"d{number % len(world.outcomes)}", state, online, seconds)
        world.settle()
    assert world.touched <= world.allowed()


@law
@given(worlds(), histories())
def test_a_wave_passes_exactly_when_its_gate_holds(world: World, history: History) -> None:
    for number, state, online, seconds in [(0, None, world.outcomes["d0"].online, 0), *history]:
        world.report(f"d{number % len(world.outcomes)}", state, online, seconds)
        for step in steps_while_running(world):
            if not isinstance(step, Offer | Halt):
                running, in_progress, failed = count_by_hand(world, world.rollout.wave)
                holds = running >= required_by_hand(world, running + in_progress + failed)
                assert holds is (isinstance(step, OpenWave | Complete) or "passed" in step.reason)


@law
@given(worlds(), histories())
def test_a_rollout_halts_exactly_when_failures_put_a_gate_out_of_reach(world: World, history: History) -> None:
    for number, state, online, seconds in [(0, None, world.outcomes["d0"].online, 0), *history]:
        world.report(f"d{number % len(world.outcomes)}", state, online, seconds)
        for step in steps_while_running(world):
            assert isinstance(step, Halt) is any(is_out_of_reach_by_hand(world, wave) for wave in range(world.rollout.wave + 1))


def steps_while_running(world: World) -> Iterator[Step]:
    """Yield each step of a running rollout before it is applied, up to and including the first wait."""
    while world.rollout.state is RolloutState.RUNNING:
        step = world.step()
        yield step
        world.apply(step)
        if isinstance(step, Wait):
            return


def count_by_hand(world: World, wave: int) -> tuple[int, int, int]:
    """Count the running, in-progress and failed or blocked devices of a wave without the functions under test."""
    running = in_progress = failed = 0
    for device in world.rollout.waves[wave]:
        outcome = world.outcomes[device]
        if outcome.state is DeploymentState.RUNNING:
            running += 1
        elif outcome.state in FAILURES or has_timed_out_by_hand(world, outcome) or (not outcome.state and outcome.blocked_reason):
            failed += 1
        elif outcome.online and outcome.state is not DeploymentState.SUPERSEDED:
            in_progress += 1
    return running, in_progress, failed


def has_timed_out_by_hand(world: World, outcome: Outcome) -> bool:
    if outcome.state is None or outcome.state in ENDS:
        return False
    silent_s = (world.now - outcome.since).total_seconds()
    online_s = (world.now - outcome.online_since).total_seconds() if outcome.online else 0
    return silent_s >= TIMEOUT_S and (online_s >= TIMEOUT_S or outcome.state in SWITCH)


def required_by_hand(world: World, present: int) -> int:
    share = Fraction(str(world.rollout.success_threshold))
    return max(1, math.ceil(share * present))


def is_out_of_reach_by_hand(world: World, wave: int) -> bool:
    running, in_progress, failed = count_by_hand(world, wave)
    return failed > 0 and running + in_progress < required_by_hand(world, running + in_progress + failed)


@law
@given(worlds(), histories(), histories())
def test_an_ended_rollout_stays_ended_and_touches_no_further_device(world: World, before: History, after: History) -> None:
    play(world, before)
    for device in world.outcomes:
        world.report(device, DeploymentState.REFUSED, True, 1)
    world.settle()
    state, touched = world.rollout.state, set(world.touched)
    play(world, after)
    assert state in (RolloutState.HALTED, RolloutState.COMPLETED)
    assert (world.rollout.state, world.touched) == (state, touched)


@law
@given(worlds(), histories())
def test_without_news_nothing_changes(world: World, history: History) -> None:
    play(world, history)
    first, again = world.settle(), world.settle()
    assert first == again
    assert len(again) == 1


@law
@given(worlds(), histories(), st.data())
def test_a_crash_between_any_two_steps_changes_nothing(world: World, history: History, data: st.DataObject) -> None:
    """An engine that crashes has computed a step without storing it; the next one computes it again."""
    crashing = World(world.rollout, dict(world.outcomes))
    play(world, history)
    for number, state, online, seconds in [(0, None, crashing.outcomes["d0"].online, 0), *history]:
        crashing.report(f"d{number % len(crashing.outcomes)}", state, online, seconds)
        while not isinstance(step := crashing.step(), Wait):
            if data.draw(st.booleans(), label="crash"):
                crashing = World(crashing.rollout, dict(crashing.outcomes), crashing.now, set(crashing.touched))
            else:
                crashing.apply(step)
    assert (crashing.rollout, crashing.outcomes, crashing.touched) == (world.rollout, world.outcomes, world.touched)


@law
@given(worlds())
def test_a_healthy_fleet_installs_the_version_everywhere(world: World) -> None:
    healthy = {device: replace(outcome, online=True, blocked_reason="") for device, outcome in world.outcomes.items()}
    world.outcomes = healthy
    world.settle()
    for wave in world.rollout.waves:
        for device in wave:
            world.report(device, DeploymentState.RUNNING, True, 1)
        world.report(wave[0], None, True, 60)
        world.settle()
    assert world.rollout.state is RolloutState.COMPLETED
    assert world.touched == set(world.outcomes)
