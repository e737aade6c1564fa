"""State machine of a deployment as a table (state, event) -> state; a step outside the table is a bug of the agent.

    ACCEPTED ─▶ FETCHING ─▶ VERIFIED ─▶ STAGED ─▶ SWITCHING ─▶ TRIAL ─▶ RUNNING
        │          │            │          │           │          │
        └──────────┴── REFUSED, FAILED, ───┘           └▶ ROLLING_BACK ─▶ ROLLED_BACK
                       SUPERSEDED

The running version is not touched before SWITCHING, so a newer desired state can replace the current one at once. After that
the step is completed or rolled back first. Every step is stored before it is acted upon (`journal.py`), between two failpoints.
"""

from __future__ import annotations

import enum

from edgewright.contracts.messages import DeploymentState
from edgewright.errors import ConflictError

MAX_TRANSITIONS = 28
"""Stored steps per desired state. A device that keeps restarting during an update stops here instead of wearing out its disk."""


class Event(enum.StrEnum):
    """An event in a deployment."""

    ACCEPT = "accept"
    FETCH = "fetch"
    RETRY = "retry"
    VERIFY = "verify"
    DAMAGE = "damage"
    STAGE = "stage"
    SWITCH = "switch"
    RESUME = "resume"
    TRY = "try"
    COMMIT = "commit"
    ROLL_BACK = "roll_back"
    RESTORE = "restore"
    REFUSE = "refuse"
    GIVE_UP = "give_up"
    SUPERSEDE = "supersede"


_S = DeploymentState

BEFORE_THE_SWITCH = (_S.ACCEPTED, _S.FETCHING, _S.VERIFIED, _S.STAGED)

TRANSITIONS: dict[tuple[DeploymentState | None, Event], DeploymentState] = {
    (None, Event.ACCEPT): _S.ACCEPTED,
    (_S.ACCEPTED, Event.FETCH): _S.FETCHING,
    (_S.FETCHING, Event.RETRY): _S.FETCHING,
    (_S.FETCHING, Event.VERIFY): _S.VERIFIED,
    (_S.VERIFIED, Event.RETRY): _S.VERIFIED,
    (_S.VERIFIED, Event.DAMAGE): _S.FETCHING,
    (_S.VERIFIED, Event.STAGE): _S.STAGED,
    (_S.STAGED, Event.SWITCH): _S.SWITCHING,
    (_S.SWITCHING, Event.RESUME): _S.SWITCHING,
    (_S.SWITCHING, Event.TRY): _S.TRIAL,
    (_S.SWITCHING, Event.ROLL_BACK): _S.ROLLING_BACK,
    (_S.TRIAL, Event.RESUME): _S.TRIAL,
    (_S.TRIAL, Event.COMMIT): _S.RUNNING,
    (_S.TRIAL, Event.ROLL_BACK): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, Event.RESTORE): _S.ROLLED_BACK,
    **{(state, Event.REFUSE): _S.REFUSED for state in BEFORE_THE_SWITCH},
    **{(state, Event.GIVE_UP): _S.FAILED for state in BEFORE_THE_SWITCH},
    **{(state, Event.SUPERSEDE): _S.SUPERSEDED for state in BEFORE_THE_SWITCH},
}


def after(state: DeploymentState | None, event: Event) -> DeploymentState:
    """Return the state that `event` leads to.

    Raises:
        ConflictError: the table has no such step.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        name = state.value if state else "the start"
        raise ConflictError(f"a deployment must follow its state table, which has no step {event.value!r} from {name}") from None


def failpoint_name(state: DeploymentState | None, event: Event, side: str) -> str:
    """Return the name of the failpoint `before` or `after` a stored step."""
    return f"{state.value if state else 'start'}.{event.value}.{side}"


def failpoints() -> tuple[str, ...]:
    """Return the names of all failpoints of the table."""
    return tuple(failpoint_name(state, event, side) for state, event in TRANSITIONS for side in ("before", "after"))
