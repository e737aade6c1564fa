"""Jobs in the database: convert rows to values and to the records of the API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, func, insert, select, update

from cloud.db.database import Counter, assign_alone, raise_counter
from cloud.db.schema import pipeline_jobs
from edgewright.contracts import wire
from edgewright.contracts.pipelines.definition import Pipeline, Value
from edgewright.contracts.pipelines.jobs import JobRecord, JobState, StepRecord
from edgewright.errors import NotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """One job."""

    job: int
    owner: str
    """The cloud that runs it: several may share a database."""
    pipeline: str
    definition: Pipeline
    experiment: str
    parameters: dict[str, Value]
    schedule: str
    state: JobState
    reason: str
    steps: tuple[StepRecord, ...]
    created_at: datetime
    ended_at: datetime | None

    def record(self) -> JobRecord:
        """Return the job as the API shows it."""
        return JobRecord(
            job=self.job,
            pipeline=self.pipeline,
            experiment=self.experiment,
            parameters=self.parameters,
            state=self.state,
            steps=self.steps,
            reason=self.reason,
            schedule=self.schedule,
            created_at=self.created_at,
            ended_at=self.ended_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """The content of a job."""

    owner: str
    pipeline: str
    definition: Pipeline
    experiment: str
    parameters: dict[str, Value]
    schedule: str = ""


def create(connection: Connection, new: NewJob, now: datetime) -> StoredJob:
    """Store a job with the next number."""
    assign_alone(connection)
    number = (connection.execute(select(func.max(pipeline_jobs.c.job))).scalar_one() or 0) + 1
    steps = tuple(StepRecord(name=step.name) for step in new.definition.steps)
    values = {
        "job": number,
        "owner": new.owner,
        "pipeline": new.pipeline,
        "definition": wire.encode(new.definition),
        "experiment": new.experiment,
        "parameters": wire.encode(new.parameters),
        "schedule": new.schedule,
        "state": JobState.RUNNING.value,
        "reason": "",
        "steps": wire.encode(steps),
        "created_at": now,
        "ended_at": None,
    }
    connection.execute(insert(pipeline_jobs).values(values))
    raise_counter(connection, Counter.CHANGES)
    return one_job(connection, number)


def save(connection: Connection, job: StoredJob) -> None:
    """Store the state of a job and of its steps."""
    values = {"state": job.state.value, "reason": job.reason, "steps": wire.encode(job.steps), "ended_at": job.ended_at}
    connection.execute(update(pipeline_jobs).where(pipeline_jobs.c.job == job.job).values(values))
    raise_counter(connection, Counter.CHANGES)


def find_job(connection: Connection, number: int) -> StoredJob | None:
    """Return one job; None if no job has this number."""
    row = connection.execute(select(pipeline_jobs).where(pipeline_jobs.c.job == number)).one_or_none()
    return None if row is None else _job(row)


def one_job(connection: Connection, number: int) -> StoredJob:
    """Return one job.

    Raises:
        NotFoundError: there is no job of this number.
    """
    found = find_job(connection, number)
    if found is None:
        raise NotFoundError(f"there is no job {number}; 'edgewright jobs list' shows them")
    return found


def newest_jobs(connection: Connection, *, experiment: str | None, limit: int, before: int | None) -> list[StoredJob]:
    """Return jobs, newest first: at most `limit`, with numbers below `before`, of one experiment or of all."""
    query = select(pipeline_jobs).order_by(pipeline_jobs.c.job.desc()).limit(limit)
    if experiment is not None:
        query = query.where(pipeline_jobs.c.experiment == experiment)
    if before is not None:
        query = query.where(pipeline_jobs.c.job < before)
    return [_job(row) for row in connection.execute(query)]


def active_jobs(connection: Connection, owner: str) -> list[int]:
    """Return the numbers of the jobs of one cloud that have not ended, oldest first."""
    states = (JobState.RUNNING.value, JobState.CANCELING.value)
    query = select(pipeline_jobs.c.job).where(pipeline_jobs.c.owner == owner, pipeline_jobs.c.state.in_(states))
    return list(connection.execute(query.order_by(pipeline_jobs.c.job)).scalars())


def _job(row: Row[tuple[object, ...]]) -> StoredJob:
    return StoredJob(
        job=row.job,
        owner=row.owner,
        pipeline=row.pipeline,
        definition=wire.decode(row.definition, Pipeline, what="the stored definition of a job"),
        experiment=row.experiment,
        parameters=wire.decode(row.parameters, dict[str, Value], what="the stored parameters of a job"),
        schedule=row.schedule,
        state=JobState(row.state),
        reason=row.reason,
        steps=wire.decode(row.steps, tuple[StepRecord, ...], what="the stored steps of a job"),
        created_at=row.created_at,
        ended_at=row.ended_at,
    )
