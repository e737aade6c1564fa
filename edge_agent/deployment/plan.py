"""Decide on the next action from the stored deployment, the newest desired state and the connection; a pure rule.

A newer desired state replaces the current one until the switch. After the switch the step is completed or rolled back first.
A version that failed is never retried: only a desired state with a higher number starts a deployment.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edge_agent.deployment.journal import Deployment
from edge_agent.deployment.states import BEFORE_THE_SWITCH, MAX_TRANSITIONS
from edgewright.contracts.messages import DeploymentState, DesiredState, RunningVariant

MAX_ATTEMPTS = 8
"""Failed attempts per step while online; being offline and a full disk do not count."""
MEASURING_ATTEMPTS = 3
"""Attempts at fetching in which variants are measured, if the settings ask for it; later attempts use the profile."""
MAX_RESUMES = 3
"""Starts of the agent during a switch or trial before the new version is considered the cause."""


class Action(enum.StrEnum):
    """An action of the agent on a deployment; the value is shown to users as the next step."""

    WAIT = "wait"
    ACCEPT = "accept the newer version"
    SUPERSEDE = "cancel in favour of the newer version"
    FETCH = "fetch the package and write its slot"
    STAGE = "check the slot against the golden samples"
    SWITCH = "switch to the new version"
    WATCH = "watch the new version"
    ROLL_BACK = "return to the last good version"
    RESTORE = "start the last good version"
    GIVE_UP = "give up"
    REPAIR = "fetch the damaged files again"


@dataclass(frozen=True, slots=True)
class Step:
    """An action and its reason."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Input of the decision."""

    deployment: Deployment | None
    newer: DesiredState | None = None
    online: bool
    retry_due: bool = True
    damage: str | None = None
    """Damage of the slot that should run; None if it is whole, or while a deployment is in progress."""


_WORK = {
    DeploymentState.ACCEPTED: Action.FETCH,
    DeploymentState.FETCHING: Action.FETCH,
    DeploymentState.VERIFIED: Action.STAGE,
    DeploymentState.STAGED: Action.SWITCH,
    DeploymentState.SWITCHING: Action.SWITCH,
    DeploymentState.TRIAL: Action.WATCH,
    DeploymentState.ROLLING_BACK: Action.RESTORE,
}


def next_step(situation: Situation) -> Step:
    """Return the next action and its reason."""
    deployment = situation.deployment
    if situation.newer is not None and (deployment is None or deployment.state.is_final):
        return Step(Action.ACCEPT, f"desired state {situation.newer.desired_number} is newer")
    if deployment is None or deployment.state.is_final:
        return _repair(situation)
    if situation.newer is not None and deployment.state in BEFORE_THE_SWITCH:
        return Step(Action.SUPERSEDE, f"desired state {situation.newer.desired_number} arrived before the switch")
    exhausted = _exhausted(deployment)
    if exhausted is not None:
        return Step(Action.GIVE_UP if deployment.state in BEFORE_THE_SWITCH else Action.ROLL_BACK, exhausted)
    if not situation.retry_due:
        return Step(Action.WAIT, deployment.reason)
    action = _WORK[deployment.state]
    if action is Action.FETCH and not situation.online:
        return Step(Action.WAIT, "waiting for the network; this does not count as an attempt")
    return Step(action, deployment.reason)


def _repair(situation: Situation) -> Step:
    if situation.damage is None:
        return Step(Action.WAIT, "no newer version requested")
    if not situation.online:
        return Step(Action.WAIT, f"waiting for the network to repair a slot: {situation.damage}")
    return Step(Action.REPAIR if situation.retry_due else Action.WAIT, situation.damage)


def downgrade(desired: DesiredState, running: RunningVariant | None) -> str | None:
    """Return the reason why `desired` is a forbidden downgrade of the running version; None if it is allowed."""
    if running is None or running.model != desired.model or desired.allow_downgrade:
        return None
    if desired.version >= running.version:
        return None
    return (
        f"the version of {desired.model} must be at least the running {running.version}, but it is {desired.version}: "
        "allow a downgrade in the rollout"
    )


def _exhausted(deployment: Deployment) -> str | None:
    """Return the budget that a deployment has used up, or None; a roll-back has no budget, because it must complete."""
    desired, state = deployment.desired, deployment.state
    if state is DeploymentState.ROLLING_BACK:
        return None
    if deployment.transitions >= MAX_TRANSITIONS:
        return f"{deployment.transitions} steps were stored (at most {MAX_TRANSITIONS} per desired state): {deployment.reason}"
    if state not in BEFORE_THE_SWITCH:
        return _restarted_too_often(deployment)
    if deployment.attempt > MAX_ATTEMPTS:
        return f"{MAX_ATTEMPTS} attempts failed: {deployment.reason}"
    if deployment.online_s > desired.device_timeout_s:
        return f"not running after {desired.device_timeout_s:g} s online: {deployment.reason}"
    return None


def _restarted_too_often(deployment: Deployment) -> str | None:
    if deployment.attempt <= MAX_RESUMES:
        return None
    return f"the agent restarted {deployment.attempt - 1} times during {deployment.state.value}"
