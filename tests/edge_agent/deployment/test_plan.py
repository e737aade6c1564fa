"""The next action in every relevant situation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from edge_agent.deployment.journal import Deployment
from edge_agent.deployment.plan import MAX_ATTEMPTS, MAX_RESUMES, Action, Situation, next_step
from edge_agent.deployment.states import BEFORE_THE_SWITCH, MAX_TRANSITIONS
from edgewright.contracts.messages import DeploymentState, DesiredState
from edgewright.contracts.oci import INDEX_TYPE, Descriptor

S = DeploymentState


def desired(number: int = 5) -> DesiredState:
    index = Descriptor(mediaType=INDEX_TYPE, digest="sha256:" + "0" * 64, size=1)
    return DesiredState(device="cam-1", desired_number=number, model="digits", version=1, index=index, device_timeout_s=100)


def deployment(state: DeploymentState, **changes: Any) -> Deployment:
    return Deployment(desired=desired(), state=state, reason="because", since=datetime(2026, 1, 1, tzinfo=UTC), **changes)


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (S.ACCEPTED, Action.FETCH),
        (S.FETCHING, Action.FETCH),
        (S.VERIFIED, Action.STAGE),
        (S.STAGED, Action.SWITCH),
        (S.SWITCHING, Action.SWITCH),
        (S.TRIAL, Action.WATCH),
        (S.ROLLING_BACK, Action.RESTORE),
        (S.RUNNING, Action.WAIT),
        (S.REFUSED, Action.WAIT),
        (S.ROLLED_BACK, Action.WAIT),
        (S.FAILED, Action.WAIT),
        (S.SUPERSEDED, Action.WAIT),
    ],
)
def test_each_state_has_its_next_action(state: DeploymentState, action: Action) -> None:
    assert next_step(Situation(deployment=deployment(state), online=True)).action is action


def test_before_the_first_desired_state_the_agent_waits() -> None:
    assert next_step(Situation(deployment=None, online=True)).action is Action.WAIT


@pytest.mark.parametrize("state", [None, *(state for state in DeploymentState if state.is_final)])
def test_a_newer_desired_state_is_accepted_after_the_last_deployment_ended(state: DeploymentState | None) -> None:
    current = deployment(state) if state else None
    assert next_step(Situation(deployment=current, newer=desired(6), online=True)).action is Action.ACCEPT


@pytest.mark.parametrize("state", BEFORE_THE_SWITCH)
def test_a_newer_desired_state_replaces_one_that_has_not_switched(state: DeploymentState) -> None:
    assert next_step(Situation(deployment=deployment(state), newer=desired(6), online=True)).action is Action.SUPERSEDE


@pytest.mark.parametrize(
    ("state", "action"),
    [(S.SWITCHING, Action.SWITCH), (S.TRIAL, Action.WATCH), (S.ROLLING_BACK, Action.RESTORE)],
)
def test_a_newer_desired_state_waits_until_a_switch_is_completed_or_rolled_back(state: DeploymentState, action: Action) -> None:
    assert next_step(Situation(deployment=deployment(state), newer=desired(6), online=True)).action is action


@pytest.mark.parametrize("state", [S.ACCEPTED, S.FETCHING])
def test_fetching_waits_while_the_device_is_offline(state: DeploymentState) -> None:
    step = next_step(Situation(deployment=deployment(state), online=False))
    assert (step.action, step.reason) == (Action.WAIT, "waiting for the network; this does not count as an attempt")


@pytest.mark.parametrize("state", [S.VERIFIED, S.STAGED, S.SWITCHING, S.TRIAL, S.ROLLING_BACK])
def test_steps_without_network_continue_offline(state: DeploymentState) -> None:
    assert next_step(Situation(deployment=deployment(state), online=False)).action is not Action.WAIT


def test_the_agent_waits_during_a_pause() -> None:
    assert next_step(Situation(deployment=deployment(S.FETCHING), online=True, retry_due=False)).action is Action.WAIT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"attempt": MAX_ATTEMPTS + 1}, f"{MAX_ATTEMPTS} attempts failed: because", id="attempts"),
        pytest.param({"online_s": 100.5}, "not running after 100 s online: because", id="deadline"),
        pytest.param(
            {"transitions": MAX_TRANSITIONS},
            f"{MAX_TRANSITIONS} steps were stored (at most {MAX_TRANSITIONS} per desired state): because",
            id="loop",
        ),
    ],
)
def test_before_the_switch_a_used_up_budget_ends_the_deployment(changes: dict[str, Any], reason: str) -> None:
    step = next_step(Situation(deployment=deployment(S.FETCHING, **changes), online=True))
    assert (step.action, step.reason) == (Action.GIVE_UP, reason)


@pytest.mark.parametrize("state", [S.SWITCHING, S.TRIAL])
def test_a_version_that_restarts_the_agent_repeatedly_is_rolled_back(state: DeploymentState) -> None:
    step = next_step(Situation(deployment=deployment(state, attempt=MAX_RESUMES + 1), online=False))
    assert step.action is Action.ROLL_BACK
    assert step.reason == f"the agent restarted {MAX_RESUMES} times during {state.value}"


def test_a_roll_back_has_no_budget() -> None:
    exhausted = deployment(S.ROLLING_BACK, attempt=99, transitions=MAX_TRANSITIONS, online_s=1e6)
    assert next_step(Situation(deployment=exhausted, online=False)).action is Action.RESTORE


@pytest.mark.parametrize(
    ("situation", "action"),
    [
        (Situation(deployment=deployment(S.RUNNING), damage="d", online=True), Action.REPAIR),
        (Situation(deployment=deployment(S.RUNNING), damage="d", online=False), Action.WAIT),
        (Situation(deployment=deployment(S.RUNNING), damage="d", online=True, retry_due=False), Action.WAIT),
        (Situation(deployment=deployment(S.ROLLED_BACK), damage="d", online=True), Action.REPAIR),
        (Situation(deployment=deployment(S.TRIAL), damage="d", online=True), Action.WATCH),
    ],
)
def test_a_repair_waits_for_the_network_and_for_a_deployment_in_progress(situation: Situation, action: Action) -> None:
    assert next_step(situation).action is action
