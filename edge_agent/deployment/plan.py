"""What to do next, decided from what is stored, what is wished, and whether the cloud is in reach. Nothing is done here.

A wish that is newer takes the place of one in hand until the switch; from the switch on, the step is finished or undone first.
A version that ended badly is never tried again: only a higher desired version starts anything.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edge_agent.deployment.journal import Deployment
from edge_agent.deployment.states import BEFORE_THE_SWITCH, MAX_TRANSITIONS
from edgewright.contracts.messages import DeploymentState, DesiredState, RunningVariant

MAX_ATTEMPTS = 8
"""Tries of one step that failed while the cloud was in reach; being offline and a full disk cost none."""
MEASURING_ATTEMPTS = 3
"""Tries of fetching in which variants are measured, where that is asked for; the others do without."""
MAX_RESUMES = 3
"""Starts of the agent in the middle of a switch or trial before the new version is held to be the cause."""


class Action(enum.StrEnum):
    """What the agent can do about a deployment."""

    WAIT = "wait"
    ACCEPT = "accept the newer version"
    SUPERSEDE = "give way to the newer version"
    FETCH = "fetch the package"
    STAGE = "write the slot and check it against the golden samples"
    SWITCH = "switch to the new version"
    WATCH = "watch the new version"
    ROLL_BACK = "return to the last good version"
    RESTORE = "start the last good version"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Step:
    """An action and why."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the decision rests on."""

    deployment: Deployment | None
    newer: DesiredState | None = None
    online: bool
    retry_due: bool = True


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
    """Decide what to do next."""
    deployment = situation.deployment
    if situation.newer is not None and (deployment is None or deployment.state.is_final):
        return Step(Action.ACCEPT, f"desired version {situation.newer.desired_number} is newer")
    if deployment is None or deployment.state.is_final:
        return Step(Action.WAIT, "nothing to do until a newer version is wished")
    if situation.newer is not None and deployment.state in BEFORE_THE_SWITCH:
        return Step(Action.SUPERSEDE, f"desired version {situation.newer.desired_number} arrived before the switch")
    why_not = _exhausted(deployment)
    if why_not is not None:
        return Step(Action.GIVE_UP if deployment.state in BEFORE_THE_SWITCH else Action.ROLL_BACK, why_not)
    if not situation.retry_due:
        return Step(Action.WAIT, deployment.reason)
    action = _WORK[deployment.state]
    if action is Action.FETCH and not situation.online:
        return Step(Action.WAIT, "waiting for the network; no attempt is spent")
    return Step(action, deployment.reason)


def downgrade(desired: DesiredState, running: RunningVariant | None) -> str | None:
    """Return why `desired` may not replace what runs, or None."""
    if running is None or running.model != desired.model or desired.allow_downgrade:
        return None
    if desired.version >= running.version:
        return None
    return (
        f"version {desired.version} of {desired.model} is older than the running {running.version}: "
        "a downgrade must be allowed by the rollout"
    )


def _exhausted(deployment: Deployment) -> str | None:
    """Say which budget a deployment has used up; a roll-back has none: it must end."""
    desired, state = deployment.desired, deployment.state
    if state is DeploymentState.ROLLING_BACK:
        return None
    if deployment.transitions >= MAX_TRANSITIONS:
        return f"{deployment.transitions} steps were stored for one version (at most {MAX_TRANSITIONS}): {deployment.reason}"
    if state not in BEFORE_THE_SWITCH:
        return _restarted_too_often(deployment)
    if deployment.attempt > MAX_ATTEMPTS:
        return f"{MAX_ATTEMPTS} attempts failed: {deployment.reason}"
    if deployment.online_s > desired.device_timeout_s:
        return f"not running within {desired.device_timeout_s:g} s of being online: {deployment.reason}"
    return None


def _restarted_too_often(deployment: Deployment) -> str | None:
    if deployment.attempt <= MAX_RESUMES:
        return None
    return f"the device started {deployment.attempt - 1} times in the middle of {deployment.state.value}"
