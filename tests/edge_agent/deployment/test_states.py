"""The table of states is complete, ends, and refuses what it does not have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.deployment.states import BEFORE_THE_SWITCH, TRANSITIONS, Event, after, failpoints
from edgewright.contracts.messages import DeploymentState
from edgewright.errors import ConflictError


@pytest.mark.parametrize(("state", "event"), TRANSITIONS, ids=str)
def test_every_step_of_the_table_leads_where_it_says(state: DeploymentState | None, event: Event) -> None:
    assert after(state, event) is TRANSITIONS[state, event]


@given(st.sampled_from([None, *DeploymentState]), st.sampled_from(Event))
def test_a_step_that_the_table_lacks_is_an_error_naming_both(state: DeploymentState | None, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        return
    with pytest.raises(ConflictError) as error:
        after(state, event)
    assert repr(event.value) in str(error.value)
    assert (state.value if state else "the start") in str(error.value)


def test_a_final_state_has_no_step_and_every_other_one_has() -> None:
    with_steps = {state for state, _ in TRANSITIONS if state is not None}
    assert with_steps == {state for state in DeploymentState if not state.is_final} - {DeploymentState.OFFERED}


def test_whatever_happens_a_final_state_can_be_reached() -> None:
    reachable = {state for state in DeploymentState if state.is_final}
    for _ in DeploymentState:
        reachable |= {state for (state, _), target in TRANSITIONS.items() if target in reachable and state is not None}
    assert reachable == set(DeploymentState) - {DeploymentState.OFFERED}


def test_only_from_the_switch_on_can_a_deployment_be_rolled_back() -> None:
    sources = {state for (state, event) in TRANSITIONS if event is Event.ROLL_BACK}
    assert sources == {DeploymentState.SWITCHING, DeploymentState.TRIAL}
    assert not sources & set(BEFORE_THE_SWITCH)


def test_every_step_has_a_failpoint_on_either_side() -> None:
    assert len(failpoints()) == 2 * len(TRANSITIONS) == len(set(failpoints()))
    assert "trial.commit.before" in failpoints()
