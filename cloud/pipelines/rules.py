"""The rules of a job, as pure functions: the same job and the same observation always give the same actions.

    Prepare, Launch    a step starts when the steps that it needs have completed and a place is free
    Note               the state of a step changes
    Stop               a running step is ended, because the job is canceled
    Finish             the job ends when no step runs or may start

A failed step lets steps that run end; no other one starts, as with Azure ML's `continue_on_step_failure=False`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from edgewright.contracts.pipelines.definition import Pipeline
from edgewright.contracts.pipelines.jobs import JobState, StepRecord, StepState


class Phase(enum.StrEnum):
    """State of one attempt of a step, as its files and its lock tell."""

    PREPARED = "prepared"  # its files are complete, its process has not begun
    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"  # it had begun; its process was killed before it could note an end


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One attempt of a step."""

    attempt: int
    phase: Phase
    reason: str = ""
    """Why it failed; empty if it succeeded, or has not ended."""
    began_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A job as the rules need it."""

    pipeline: Pipeline
    steps: tuple[StepRecord, ...]
    is_canceling: bool


@dataclass(frozen=True, slots=True)
class Prepare:
    """Write the files of the next attempt of a step."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Launch:
    """Start the process of a step whose files are complete."""

    step: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process of a step."""

    step: str


@dataclass(frozen=True, slots=True)
class Note:
    """Store the new record of a step."""

    record: StepRecord


@dataclass(frozen=True, slots=True)
class Finish:
    """Store the end of the job."""

    state: JobState
    reason: str = ""


Action = Prepare | Launch | Stop | Note | Finish


def next_actions(job: Stored, observed: Mapping[str, Observed], *, places: int, now: datetime) -> list[Action]:
    """Return what to do next.

    Args:
        job: the job.
        observed: the newest attempt of each step that has one.
        places: number of steps that may run at once.
        now: the present time.
    """
    noted = {record.name: _noted(job, record, observed.get(record.name), now) for record in job.steps}
    if job.is_canceling or any(record.state is StepState.FAILED for record in noted.values()):
        noted = {name: _given_up(record, observed.get(name), job, now) for name, record in noted.items()}
    actions: list[Action] = [Note(noted[record.name]) for record in job.steps if noted[record.name] != record]
    running = [name for name, record in noted.items() if record.state is StepState.RUNNING]
    if job.is_canceling:
        actions += [Stop(name) for name in running]
    else:
        actions += _starts(job.pipeline, noted, observed, max(places, 1))
    if all(record.state.is_final for record in noted.values()):
        actions.append(_end(job, noted))
    return actions


def _noted(job: Stored, record: StepRecord, seen: Observed | None, now: datetime) -> StepRecord:
    """Return the record of a step after what was observed."""
    if record.state.is_final or seen is None:
        return record
    began_at = record.started_at or seen.began_at or now
    started = replace(record, attempt=seen.attempt, started_at=began_at, state=StepState.RUNNING)
    if seen.phase is Phase.RUNNING or (job.is_canceling and _failed(seen)):
        return started
    if seen.phase is Phase.PREPARED or (_failed(seen) and seen.attempt <= job.pipeline.step(record.name).retries):
        return record  # it is launched, or prepared again
    ended = replace(started, ended_at=seen.ended_at or now)
    if _failed(seen):
        return replace(ended, state=StepState.FAILED, reason=seen.reason or "its process was killed")
    return replace(ended, state=StepState.COMPLETED)


def _failed(seen: Observed) -> bool:
    return seen.phase is Phase.LOST or (seen.phase is Phase.ENDED and bool(seen.reason))


def _given_up(record: StepRecord, seen: Observed | None, job: Stored, now: datetime) -> StepRecord:
    """Return the record of a step of a job in which no step starts any more."""
    is_over = record.state is StepState.WAITING or (seen is not None and seen.phase is not Phase.RUNNING)
    if record.state.is_final or not is_over:
        return record
    reason = "the job was canceled" if job.is_canceling else "another step failed"
    ended_at = None if record.started_at is None else now
    return replace(record, state=StepState.CANCELED, reason=reason, ended_at=ended_at)


def _starts(
    pipeline: Pipeline, noted: Mapping[str, StepRecord], observed: Mapping[str, Observed], places: int
) -> Iterator[Prepare | Launch]:
    """Yield the starts of steps for which a place is free, in the order of the definition."""
    free = places - sum(_occupies(observed.get(name)) for name, record in noted.items() if not record.state.is_final)
    for step in pipeline.steps:
        seen = observed.get(step.name)
        if noted[step.name].state.is_final or (seen is not None and seen.phase is Phase.RUNNING):
            continue
        if seen is not None and seen.phase is Phase.PREPARED:
            yield Launch(step.name)
        elif free > 0 and all(noted[name].state is StepState.COMPLETED for name in step.needs()):
            free -= 1
            yield Prepare(step.name, 1 if seen is None else seen.attempt + 1)


def _occupies(seen: Observed | None) -> bool:
    return seen is not None and seen.phase in (Phase.PREPARED, Phase.RUNNING)


def _end(job: Stored, noted: Mapping[str, StepRecord]) -> Finish:
    failed = [record for record in noted.values() if record.state is StepState.FAILED]
    if failed:
        return Finish(JobState.FAILED, f"step {failed[0].name} failed: {failed[0].reason}")
    if job.is_canceling and any(record.state is StepState.CANCELED for record in noted.values()):
        return Finish(JobState.CANCELED)
    return Finish(JobState.COMPLETED)
