"""The state table of a deployment: its paths, its final states and its failpoints."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.deployment.states import BEFORE_THE_SWITCH, TRANSITIONS, Event, after, failpoints
from edgewright.contracts.messages import DeploymentState
from edgewright.errors import ConflictError

S = DeploymentState
UPDATE = (Event.ACCEPT, Event.FETCH, Event.VERIFY, Event.STAGE, Event.SWITCH, Event.TRY)
OUTSIDE = sorted(
    ({(state, event) for state in (None, *DeploymentState) for event in Event} - set(TRANSITIONS)), key=lambda step: repr(step)
)


def states_after(first: Event, *later: Event) -> list[DeploymentState]:
    return list(accumulate(later, after, initial=after(None, first)))


def test_a_good_version_passes_every_state_on_its_way_to_running() -> None:
    assert states_after(*UPDATE, Event.COMMIT) == [
        S.ACCEPTED, S.FETCHING, S.VERIFIED, S.STAGED, S.SWITCHING, S.TRIAL, S.RUNNING,
    ]  # fmt: skip


@pytest.mark.parametrize("events", [UPDATE[:-1], UPDATE], ids=["switching", "trial"])
def test_a_version_that_fails_after_the_switch_is_rolled_back(events: tuple[Event, ...]) -> None:
    assert states_after(*events, Event.ROLL_BACK, Event.RESTORE)[-2:] == [S.ROLLING_BACK, S.ROLLED_BACK]


@pytest.mark.parametrize("state", BEFORE_THE_SWITCH)
@pytest.mark.parametrize(
    ("event", "final"), [(Event.REFUSE, S.REFUSED), (Event.GIVE_UP, S.FAILED), (Event.SUPERSEDE, S.SUPERSEDED)]
)
def test_before_the_switch_a_deployment_can_be_refused_fail_or_be_superseded(
    state: DeploymentState, event: Event, final: DeploymentState
) -> None:
    assert after(state, event) is final


@pytest.mark.parametrize(
    ("state", "event"),
    [(S.FETCHING, Event.RETRY), (S.VERIFIED, Event.RETRY), (S.SWITCHING, Event.RESUME), (S.TRIAL, Event.RESUME)],
)
def test_a_retry_or_restart_keeps_the_state(state: DeploymentState, event: Event) -> None:
    assert after(state, event) is state


def test_a_damaged_slot_is_fetched_again() -> None:
    assert after(S.VERIFIED, Event.DAMAGE) is S.FETCHING


@given(st.sampled_from(OUTSIDE))
def test_a_step_outside_the_table_is_an_error_that_names_state_and_event(step: tuple[DeploymentState | None, Event]) -> None:
    state, event = step
    with pytest.raises(ConflictError) as error:
        after(state, event)
    assert repr(event.value) in str(error.value)
    assert (state.value if state else "the start") in str(error.value)


def test_a_final_state_has_no_step_and_every_other_state_has_one() -> None:
    with_steps = {state for state, _ in TRANSITIONS if state is not None}
    assert with_steps == {state for state in DeploymentState if not state.is_final} - {S.OFFERED}


def test_a_final_state_is_reachable_from_every_state() -> None:
    reachable = {state for state in DeploymentState if state.is_final}
    for _ in DeploymentState:
        reachable |= {state for (state, _), target in TRANSITIONS.items() if target in reachable and state is not None}
    assert reachable == set(DeploymentState) - {S.OFFERED}


def test_a_deployment_can_be_rolled_back_only_after_the_switch() -> None:
    sources = {state for (state, event) in TRANSITIONS if event is Event.ROLL_BACK}
    assert sources == {S.SWITCHING, S.TRIAL}
    assert not sources & set(BEFORE_THE_SWITCH)


def test_every_step_is_between_two_failpoints() -> None:
    assert len(failpoints()) == 2 * len(TRANSITIONS) == len(set(failpoints()))
    assert "trial.commit.before" in failpoints()
