"""Laws of every rollout, whatever the devices do: a small fleet is played through thousands of random stories."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

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
    Standing,
    Step,
    Wait,
    next_step,
    plan_waves,
    tally,
)
from edgewright.contracts.messages import DeploymentState, RolloutRequest, RolloutState

START = datetime(2026, 3, 1, tzinfo=UTC)
WAVES = [("100%",), ("1", "100%"), ("1", "25%", "100%"), ("10%", "20%", "60%", "100%"), ("2", "3", "99")]
Story = list[tuple[int, DeploymentState | None, bool, int]]
law = settings(max_examples=200, deadline=None)
REPORTS = [state for state in DeploymentState if state is not DeploymentState.OFFERED]


@dataclass
class World:
    """The tables of the engine, held in memory: what is here is what survives a crash."""

    rollout: Rollout
    outcomes: dict[str, Outcome]
    now: datetime = START
    touched: set[str] = field(default_factory=set)

    def step(self) -> Step:
        return next_step(self.rollout, self.outcomes, self.now)

    def apply(self, step: Step) -> None:
        """Do what the engine does with a step."""
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
        """Apply steps until there is nothing to do; more of them than devices and waves would be an endless loop."""
        steps = []
        for _ in range(3 * len(self.outcomes) + 3):
            step = self.step()
            self.apply(step)
            steps.append(step)
            if isinstance(step, Wait):
                return steps
        raise AssertionError(f"never came to rest: {steps}")

    def hear(self, device: str, state: DeploymentState | None, online: bool, seconds: int) -> None:
        """Let time pass and a device speak: a state counts only if it was offered the version."""
        self.now += timedelta(seconds=seconds)
        was = self.outcomes[device]
        if state is not None and was.state is not None and was.state is not state:
            was = replace(was, state=state, since=self.now, reason="as told")
        if online is not was.online:
            was = replace(was, online=online, online_since=self.now)
        self.outcomes[device] = was

    def allowed(self) -> set[str]:
        """The devices of the waves that are open."""
        return {device for wave in self.rollout.waves[: self.rollout.wave + 1] for device in wave}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 12))
    candidates = [Candidate(f"d{number}", draw(st.booleans())) for number in range(count)]
    request = RolloutRequest(
        model="m",
        waves=draw(
            st.sampled_from([("100%",), ("1", "100%"), ("1", "25%", "100%"), ("10%", "20%", "60%", "100%"), ("2", "3", "99")])
        ),
        success_threshold=draw(st.sampled_from([0.3, 0.5, 0.9, 1.0])),
        soak_s=draw(st.sampled_from([0, 30])),
        device_timeout_s=100,
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
    barred = st.sampled_from(["", "", "", "failed before"])
    outcomes = {
        each.device: Outcome(state=None, since=START, online=each.online, online_since=START, barred=draw(barred))
        for each in candidates
    }
    return World(rollout, outcomes)


@st.composite
def news(draw: st.DrawFn) -> Story:
    one = st.tuples(st.integers(0, 11), st.sampled_from([*REPORTS, None]), st.booleans(), st.sampled_from([0, 1, 40, 101]))
    cheerful = st.tuples(st.integers(0, 11), st.just(DeploymentState.RUNNING), st.just(True), st.just(5))
    return draw(st.lists(st.one_of(one, cheerful), max_size=30))


def play(world: World, stories: Story) -> None:
    world.settle()
    for number, state, online, seconds in stories:
        world.hear(f"d{number % len(world.outcomes)}", state, online, seconds)
        world.settle()


@law
@given(worlds())
def test_waves_divide_the_fleet(world: World) -> None:
    members = [device for wave in world.rollout.waves for device in wave]
    assert sorted(members) == sorted(world.outcomes)
    assert all(world.rollout.waves)


@law
@given(worlds(), news())
def test_never_more_devices_are_touched_than_the_open_waves_allow(world: World, stories: Story) -> None:
    world.settle()
    for number, state, online, seconds in stories:
        assert world.touched <= world.allowed()
        world.hear(f"d{number % len(world.outcomes)}", state, online, seconds)
        world.settle()
    assert world.touched <= world.allowed()


@law
@given(worlds(), news())
def test_no_wave_opens_before_the_gate_of_the_last_one_has_held(world: World, stories: Story) -> None:
    for number, state, online, seconds in [(0, None, world.outcomes["d0"].online, 0), *stories]:
        world.hear(f"d{number % len(world.outcomes)}", state, online, seconds)
        step = world.step()
        while not isinstance(step, Wait):
            if isinstance(step, OpenWave | Complete):
                assert_gate_holds(world)
            world.apply(step)
            step = world.step()


def assert_gate_holds(world: World) -> None:
    """State the gate again in other words: enough of those present, and at least one."""
    counted = tally(world.rollout, world.rollout.waves[world.rollout.wave], world.outcomes, world.now)
    present = counted.total() - counted[Standing.AWAY]
    assert counted[Standing.RUNNING] >= 1
    assert math.isclose(
        max(counted[Standing.RUNNING] / present, world.rollout.success_threshold), counted[Standing.RUNNING] / present
    )


@law
@given(worlds(), news(), news())
def test_a_halt_is_final_and_nobody_further_is_touched(
    world: World,
    before: Story,
    after: Story,
) -> None:
    play(world, before)
    world.hear("d0", DeploymentState.REFUSED, True, 1)
    world.settle()
    state, touched = world.rollout.state, set(world.touched)
    play(world, after)
    if state is not RolloutState.RUNNING:
        assert (world.rollout.state, world.touched) == (state, touched)


@law
@given(worlds(), news())
def test_without_news_nothing_changes(world: World, stories: Story) -> None:
    play(world, stories)
    first, again = world.settle(), world.settle()
    assert first == again
    assert len(again) == 1


@law
@given(worlds(), news(), st.data())
def test_a_crash_between_any_two_steps_changes_nothing(world: World, stories: Story, data: st.DataObject) -> None:
    """The engine that crashes has computed a step and not stored it; the one that starts again computes it anew."""
    crashing = World(world.rollout, dict(world.outcomes))
    play(world, stories)
    for number, state, online, seconds in [(0, None, crashing.outcomes["d0"].online, 0), *stories]:
        crashing.hear(f"d{number % len(crashing.outcomes)}", state, online, seconds)
        while not isinstance(step := crashing.step(), Wait):
            if data.draw(st.booleans(), label="crash"):
                crashing = World(crashing.rollout, dict(crashing.outcomes), crashing.now, set(crashing.touched))
            else:
                crashing.apply(step)
    assert (crashing.rollout, crashing.outcomes, crashing.touched) == (world.rollout, world.outcomes, world.touched)


@law
@given(worlds())
def test_a_fleet_that_does_well_gets_the_version_everywhere(world: World) -> None:
    healthy = {device: replace(outcome, online=True, barred="") for device, outcome in world.outcomes.items()}
    world.outcomes = healthy
    world.settle()
    for wave in world.rollout.waves:
        for device in wave:
            world.hear(device, DeploymentState.RUNNING, True, 1)
        world.hear(wave[0], None, True, 60)
        world.settle()
    assert world.rollout.state is RolloutState.COMPLETED
    assert world.touched == set(world.outcomes)
