"""Jobs: run, list, show, cancel, and read the logs and files of their steps."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse, Response

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.pipelines import operations
from cloud.pipelines.engine import folder_of
from cloud.pipelines.folder import JobFolder
from cloud.pipelines.store import newest_jobs, one_job
from edgewright.contracts.names import nearest
from edgewright.contracts.pipelines.definition import Step
from edgewright.contracts.pipelines.jobs import JobFile, JobRecord, JobRequest, StepLog
from edgewright.errors import BadInputError, ConflictError, NotFoundError

MAX_JOBS = 1000
_HINT = "; 'edgewright jobs list' shows them"
_MAX_PIECE_BYTES = 256 << 10
_PIECE_BYTES = 1 << 20


class _FileResponse(FileResponse):
    """A file or a range of it, sent in large pieces: each piece costs a switch to a worker thread."""

    chunk_size = _PIECE_BYTES


def submit(call: Call) -> JobRecord:
    """Run a pipeline."""
    request: JobRequest = call.body
    with call.cloud.database.transaction() as connection:
        return operations.submit(call.cloud, connection, request, call.now).record()


def list_jobs(call: Call) -> list[JobRecord]:
    """Return jobs, newest first."""
    limit = call.whole("limit", 100)
    if not 1 <= limit <= MAX_JOBS:
        raise BadInputError(f"limit must be 1 to {MAX_JOBS}, not {limit}")
    before = call.whole("before", 0) or None
    with call.cloud.database.reading() as connection:
        found = newest_jobs(connection, experiment=call.text("experiment"), limit=limit, before=before)
    return [job.record() for job in found]


def show_job(call: Call) -> JobRecord:
    """Return one job."""
    with call.cloud.database.reading() as connection:
        return one_job(connection, call.path_number("job", _HINT)).record()


def cancel_job(call: Call) -> JobRecord:
    """Cancel a job."""
    with call.cloud.database.transaction() as connection:
        return operations.cancel(connection, call.path_number("job", _HINT)).record()


def show_log(call: Call) -> StepLog:
    """Return a piece of the log of a step."""
    folder, step = _step(call)
    after = call.whole("after", 0)
    raw = _read(folder.log(step.name), after)
    return StepLog(attempt=folder.newest(step.name), text=raw.decode("utf-8", "replace"), next=after + len(raw))


def list_files(call: Call) -> list[JobFile]:
    """Return the files of a step."""
    folder, step = _step(call)
    return folder.files(step)


def show_file(call: Call) -> Response:
    """Return a file of a step, or a range of it."""
    folder, step = _step(call)
    name = call.text("path")
    if name is None:
        raise BadInputError("the query must have the path of a file, as in ?path=outputs/scores.csv")
    path = folder.file(step, name)
    return _FileResponse(path, media_type="application/octet-stream", stat_result=path.stat())


def _step(call: Call) -> tuple[JobFolder, Step]:
    with call.cloud.database.reading() as connection:
        job = one_job(connection, call.path_number("job", _HINT))
    names = [step.name for step in job.definition.steps]
    if call.path("step") not in names:
        raise NotFoundError(f"job {job.job} has no step {call.path('step')[:64]!r}{nearest(call.path('step'), names)}")
    folder = folder_of(call.cloud, job.job)
    if not folder.newest(call.path("step")):
        raise ConflictError(f"step {call.path('step')} must have been started to have files, but it was not: {job.state}")
    return folder, job.definition.step(call.path("step"))


def _read(path: Path, after: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(after)
            return stream.read(_MAX_PIECE_BYTES)
    except FileNotFoundError:
        return b""


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/jobs",
        access=Access.OPERATOR,
        summary="Run a published pipeline, or one that comes with the request.",
        handler=submit,
        request_type=JobRequest,
        response_type=JobRecord,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs",
        access=Access.OPERATOR,
        summary="Jobs, newest first.",
        handler=list_jobs,
        response_type=list[JobRecord],
        numbers=("limit", "before"),
        query={
            "experiment": "only jobs of this experiment",
            "limit": "maximum number of jobs; 100 by default",
            "before": "only jobs with a smaller number, for the next page",
        },
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{job}",
        access=Access.OPERATOR,
        summary="One job with the states of its steps.",
        handler=show_job,
        response_type=JobRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/jobs/{job}/cancel",
        access=Access.OPERATOR,
        summary="Cancel a job: its steps that run are stopped, the others do not start.",
        handler=cancel_job,
        response_type=JobRecord,
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{job}/steps/{step}/log",
        access=Access.OPERATOR,
        summary="A piece of the output of a step's script.",
        handler=show_log,
        response_type=StepLog,
        other_statuses=(409,),
        numbers=("after",),
        query={"after": "offset in bytes; 0 by default"},
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{job}/steps/{step}/files",
        access=Access.OPERATOR,
        summary="The files of a step, by path.",
        handler=list_files,
        response_type=list[JobFile],
        other_statuses=(409,),
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{job}/steps/{step}/file",
        access=Access.OPERATOR,
        summary="A file of a step, or a range of it.",
        handler=show_file,
        response_type=bytes,
        other_statuses=(206, 409, 416),
        query={"path": "path of the file in the list of files"},
    ),
)
