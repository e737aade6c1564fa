"""Rules of a supervised service: which server processes to start and which to drain. Pure functions of values and the time.

the desired generation       is started beside the one that answers; when all its processes are ready, the others drain
a process that is not ready  fails its generation at once if its input is wrong, else after `MAX_START_FAILURES` attempts
a process that was ready     is started again after a pause that doubles up to 30 s, without a limit of attempts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgewright.serving.supervision.service import ServiceState

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
SETTLED_AFTER_S = 60.0
"""A process that was ready for this long starts again without the pause of earlier failures."""
MAX_START_FAILURES = 3
BAD_INPUT_EXIT = 2
"""The exit code of a command whose input is wrong (`edgewright.errors`): the next attempt would end the same way."""

UNREACHABLE_EXIT = 3
"""The exit code of a command that waits for another program, such as a container engine: it is tried until the deadline."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One server process."""

    number: int
    generation: int
    is_ready: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Results of the processes of one generation."""

    began_at: float = 0.0
    """When its first process was started, in seconds of a monotonic clock."""
    failures: int = 0
    """Ends since the last process that stayed ready for `SETTLED_AFTER_S`."""
    retry_at: float = 0.0
    was_ready: bool = False
    has_failed: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The generations and processes of a service."""

    desired: int
    answering: int | None
    """The newest generation that was ready; None before the first one."""
    wanted: Mapping[int, int]
    """Number of processes that each generation should have."""
    replicas: Sequence[Replica]
    histories: Mapping[int, History]


@dataclass(frozen=True, slots=True)
class Actions:
    """Processes to start, as one generation for each, and the numbers of those to drain."""

    start: tuple[int, ...] = ()
    drain: tuple[int, ...] = ()


def next_actions(situation: Situation, now: float) -> Actions:
    """Return the processes to start and to drain at `now`."""
    kept = _kept_generations(situation)
    start: list[int] = []
    for generation in kept:
        missing = situation.wanted[generation] - _count(situation, generation)
        history = situation.histories.get(generation, History())
        if missing > 0 and not history.has_failed and now >= history.retry_at:
            start += [generation] * missing
    drain = tuple(each.number for each in situation.replicas if each.generation not in kept)
    return Actions(tuple(start), drain)


def next_wake_at(situation: Situation) -> float | None:
    """Return the time at which a process is to be started again; None if none waits."""
    waiting = [
        situation.histories[generation].retry_at
        for generation in _kept_generations(situation)
        if generation in situation.histories
        and not situation.histories[generation].has_failed
        and _count(situation, generation) < situation.wanted[generation]
    ]
    return min(waiting, default=None)


def after_end(
    history: History, *, was_ready_for_s: float | None, exit_code: int, reason: str, retry_for_s: float, now: float
) -> History:
    """Return the history of a generation after the unexpected end of one of its processes.

    Args:
        history: the history before.
        was_ready_for_s: how long the process was ready; None if it never was.
        exit_code: the exit code, or the negative number of a signal.
        reason: one line that explains the end.
        retry_for_s: time after the first start in which a failed start is tried again.
        now: seconds of the monotonic clock.
    """
    failures = 1 if was_ready_for_s is not None and was_ready_for_s >= SETTLED_AFTER_S else history.failures + 1
    is_late = now >= history.began_at + retry_for_s
    is_repeated = failures >= MAX_START_FAILURES and exit_code != UNREACHABLE_EXIT
    is_final = not history.was_ready and (exit_code == BAD_INPUT_EXIT or is_repeated or is_late)
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))
    return replace(history, failures=failures, retry_at=now + pause_s, has_failed=is_final, reason=reason)


def after_deadline(history: History, start_timeout_s: float, now: float) -> History:
    """Return the history of a generation, failed if none of its processes became ready in time."""
    if history.was_ready or history.has_failed or now < history.began_at + start_timeout_s:
        return history
    reason = f"it must be ready within {start_timeout_s:g} s, but it is not"
    return replace(history, has_failed=True, reason=f"{reason}; {history.reason}" if history.reason else reason)


def after_ready(history: History) -> History:
    """Return the history of a generation of which a process became ready."""
    return replace(history, was_ready=True, reason="")


def hanging_replica(replicas: Sequence[Replica], silent_s: float, hang_timeout_s: float) -> Replica | None:
    """Return the ready process to replace if the service has not answered for too long: the oldest; None otherwise."""
    ready = [each for each in replicas if each.is_ready]
    return min(ready, key=lambda each: each.number) if ready and silent_s >= hang_timeout_s else None


def state_of(situation: Situation) -> ServiceState:
    """Return the state of the desired generation."""
    history = situation.histories.get(situation.desired, History())
    if history.has_failed:
        return ServiceState.FAILED
    if any(each.is_ready and each.generation == situation.desired for each in situation.replicas):
        return ServiceState.RUNNING
    return ServiceState.INTERRUPTED if history.was_ready else ServiceState.STARTING


def _kept_generations(situation: Situation) -> tuple[int, ...]:
    """Return the generations whose processes should run: the desired one, and the answering one until that is ready."""
    desired, answering = situation.desired, situation.answering
    history = situation.histories.get(desired, History())
    attempted = () if history.has_failed else (desired,)
    ready = sum(each.is_ready for each in situation.replicas if each.generation == desired)
    if answering is None or answering == desired or ready >= situation.wanted[desired]:
        return attempted
    return (*attempted, answering)


def _count(situation: Situation, generation: int) -> int:
    return sum(each.generation == generation for each in situation.replicas)
