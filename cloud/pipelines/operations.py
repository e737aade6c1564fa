"""The operations of an operator on pipelines: run, cancel, and the schedules' runs. `engine.py` carries them out."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from cloud.context import Cloud
from cloud.environments import store as environments
from cloud.pipelines import published
from cloud.pipelines.store import NewJob, StoredJob, create, one_job, save
from cloud.registry.blobs import has_blob
from edgewright.contracts.environments.definition import parse_environment_reference
from edgewright.contracts.names import parse_reference
from edgewright.contracts.pipelines.definition import FILES_REPOSITORY, Pipeline
from edgewright.contracts.pipelines.jobs import JobRequest, JobState
from edgewright.contracts.pipelines.schedules import ScheduleRecord, ScheduleRequest
from edgewright.errors import ConflictError


def submit(cloud: Cloud, connection: Connection, request: JobRequest, now: datetime, *, schedule: str = "") -> StoredJob:
    """Store a job; the engine starts its first steps.

    Raises:
        NotFoundError: there is no such pipeline, version or environment.
        ConflictError: the version is disabled, or a file was not pushed before.
        BadInputError: a parameter is unknown or of another type.
    """
    definition, name = request.definition, ""
    if definition is None:
        record = published.enabled_version(connection, parse_reference(request.pipeline), cloud.url)
        definition, name = record.definition, f"{record.pipeline}:{record.version}"
    else:
        check_content(connection, definition)
    new = NewJob(
        owner=cloud.owner,
        pipeline=name,
        definition=definition,
        experiment=request.experiment,
        parameters=definition.with_values(request.parameters),
        schedule=schedule,
    )
    return create(connection, new, now)


def submit_scheduled(cloud: Cloud, connection: Connection, schedule: ScheduleRecord, now: datetime) -> StoredJob:
    """Store a job for a schedule."""
    asked = schedule.request
    request = JobRequest(pipeline=asked.pipeline, experiment=asked.experiment, parameters=asked.parameters)
    return submit(cloud, connection, request, now, schedule=schedule.schedule)


def check_schedule(cloud: Cloud, connection: Connection, request: ScheduleRequest) -> None:
    """Raise the error with which a schedule would start no job."""
    record = published.enabled_version(connection, parse_reference(request.pipeline), cloud.url)
    record.definition.with_values(request.parameters)


def cancel(connection: Connection, number: int) -> StoredJob:
    """Ask for the end of a job: its steps that run are stopped, the others do not start.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has ended.
    """
    job = one_job(connection, number)
    if job.state.is_final:
        raise ConflictError(f"job {number} must be running to be canceled, but it is {job.state}")
    canceled = replace(job, state=JobState.CANCELING)
    save(connection, canceled)
    return canceled


def check_content(connection: Connection, definition: Pipeline) -> None:
    """Check that the registry has all files of a pipeline, and the cloud its environments."""
    for step in definition.steps:
        missing = [file.path for file in step.files if not has_blob(connection, FILES_REPOSITORY, file.digest)]
        if missing:
            raise ConflictError(f"{len(missing)} files must be pushed to {FILES_REPOSITORY} first, such as {missing[0]}")
        if step.environment:
            environments.find(connection, parse_environment_reference(step.environment))
