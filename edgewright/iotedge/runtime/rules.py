"""Pure decisions of the runtime: the state of each module, and the next steps in the start order.

The rules are those of IoT Edge's agent (RestartPolicyManager and HealthRestartPlanner of github.com/Azure/iotedge): a module that
has ended waits 10 s before its first restart, then twice as long each time, at most 5 minutes; after 20 restarts it stays failed;
10 minutes after its last end a running module's count starts again.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from edgewright.iotedge.runtime.deployment import LAST, Deployment, ModuleSpec, Restart

COOL_OFF_S = 10.0
MAX_COOL_OFF_S = 300.0
MAX_RESTARTS = 20
HEALTHY_AFTER = timedelta(minutes=10)


class State(enum.StrEnum):
    """The `runtimeStatus` of a module."""

    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    BACKOFF = "backoff"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class Action(enum.StrEnum):
    """A step of a plan."""

    REMOVE = "remove"
    CREATE = "create"
    """Pull the image, replace the container, and start it if the module is to run."""
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    FORGET = "forget"
    """Reset the count of restarts."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action on one module."""

    action: Action
    module: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The container of a module as the engine shows it."""

    module: str
    container: str
    digest: str
    is_running: bool
    was_started: bool = True
    exit_code: int = 0
    is_unhealthy: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    image_hash: str = ""
    start_order: int = LAST


@dataclass(frozen=True, slots=True)
class Restarts:
    """The restarts of a module since it last ran for long."""

    count: int = 0
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Attempts:
    """The failures to create or start a module, one after the other."""

    count: int
    last_at: datetime


def state_of(spec: ModuleSpec, observed: Observed | None, restarts: Restarts) -> State:
    """Return the state of a module that the deployment names."""
    if observed is None:
        return State.UNKNOWN
    if observed.is_running and not observed.is_unhealthy:
        return State.RUNNING
    if (not spec.is_running and not observed.is_running) or not observed.was_started:
        return State.STOPPED
    if observed.is_running:
        state = State.UNHEALTHY
    else:
        state = State.STOPPED if observed.exit_code == 0 else State.FAILED
    if spec.restart is Restart.ALWAYS or (spec.restart is not Restart.NEVER and state in (State.FAILED, State.UNHEALTHY)):
        return State.FAILED if restarts.count >= MAX_RESTARTS else State.BACKOFF
    return state


def cool_off_s(count: int, unit_s: float = COOL_OFF_S) -> float:
    """Return the wait in seconds before the restart after `count` ones."""
    return min(unit_s * 2.0 ** min(count, 30), MAX_COOL_OFF_S)


def plan(
    deployment: Deployment,
    observed: Mapping[str, Observed],
    restarts: Mapping[str, Restarts],
    attempts: Mapping[str, Attempts],
    *,
    held: Collection[str] = (),
    now: datetime,
    unit_s: float = COOL_OFF_S,
) -> list[Step]:
    """Return the next steps; those of one start order come before those of the next. An empty plan: all is as it is to be.

    `held` are the modules that this runtime itself has stopped: they start at once when they are to run.
    """
    steps: list[tuple[int, Step]] = []
    for name, each in observed.items():
        if deployment.module(name) is None:
            steps.append((each.start_order, Step(Action.REMOVE, name)))
    for spec in deployment.modules:
        found = observed.get(spec.name)
        if spec.name in held and spec.is_running and found is not None and not found.is_running:
            found = replace(found, was_started=False)
        action = _action(spec, found, restarts.get(spec.name, Restarts()), now=now, unit_s=unit_s)
        failed = attempts.get(spec.name)
        waits = failed is not None and now - failed.last_at < timedelta(seconds=cool_off_s(failed.count - 1, unit_s))
        if action is not None and not (waits and action in (Action.CREATE, Action.START, Action.RESTART)):
            steps.append((spec.start_order, Step(action, spec.name)))
    order = list(Action)
    return [step for _, step in sorted(steps, key=lambda each: (each[0], order.index(each[1].action), each[1].module))]


def shutdown_order(deployment: Deployment | None, observed: Sequence[Observed]) -> list[str]:
    """Return the running modules in the reverse of their start order."""

    def rank(each: Observed) -> tuple[int, str]:
        spec = None if deployment is None else deployment.module(each.module)
        return (each.start_order if spec is None else spec.start_order, each.module)

    return [each.module for each in sorted(observed, key=rank, reverse=True) if each.is_running]


def _action(spec: ModuleSpec, observed: Observed | None, restarts: Restarts, *, now: datetime, unit_s: float) -> Action | None:
    if observed is None or observed.digest != spec.digest():
        return Action.CREATE
    if not spec.is_running:
        return Action.STOP if observed.is_running else None
    state = state_of(spec, observed, restarts)
    if state is State.STOPPED and not observed.was_started:
        return Action.START
    if state is State.BACKOFF:
        ended_at = (restarts.last_at or observed.started_at) if observed.is_running else observed.ended_at
        waited = None if ended_at is None else (now - ended_at).total_seconds()
        # A negative wait: the clock was set back.
        return Action.RESTART if waited is None or waited < 0 or waited > cool_off_s(restarts.count, unit_s) else None
    if state is State.RUNNING and restarts.count and _is_healthy_again(observed, restarts, now):
        return Action.FORGET
    return None


def _is_healthy_again(observed: Observed, restarts: Restarts, now: datetime) -> bool:
    since = observed.ended_at or restarts.last_at
    return since is not None and now - since > HEALTHY_AFTER
