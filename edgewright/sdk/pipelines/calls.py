"""Methods of `CloudClient` for pipelines, their jobs and schedules."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from edgewright.contracts import wire
from edgewright.contracts.files import writing_atomically
from edgewright.contracts.messages import ChangeNumber
from edgewright.contracts.models.registration import SourceFile
from edgewright.contracts.names import PackageReference
from edgewright.contracts.pipelines.definition import FILES_REPOSITORY
from edgewright.contracts.pipelines.jobs import (
    EnableRequest,
    JobFile,
    JobRecord,
    JobRequest,
    PipelineRecord,
    PublishRequest,
    StepLog,
)
from edgewright.contracts.pipelines.schedules import ScheduleRecord, ScheduleRequest
from edgewright.errors import OperationError
from edgewright.sdk.calls import Calls
from edgewright.sdk.connection import TIMEOUT_S
from edgewright.sdk.transfer.files import push_files
from edgewright.sdk.transfer.uploads import CHUNK_BYTES, Progress

_POLL_S = 25.0


class PipelineCalls(Calls):
    """Publish, run and watch pipelines; make schedules."""

    def push_step_files(
        self, files: list[tuple[str, Path]], *, on_progress: Progress = lambda _sent, _total: None
    ) -> tuple[SourceFile, ...]:
        """Send the files of a step, each under its relative path; only files that the cloud lacks are sent."""
        return push_files(self._connection, FILES_REPOSITORY, files, on_progress)

    def publish_pipeline(self, name: str, request: PublishRequest) -> PipelineRecord:
        """Publish the next version of a pipeline."""
        return self._send("POST", _pipeline(name), PipelineRecord, request)

    def pipelines(self) -> tuple[PipelineRecord, ...]:
        """Return the newest version of each published pipeline, by name."""
        return self._get("/v1/pipelines", tuple[PipelineRecord, ...])

    def pipeline_versions(self, name: str) -> tuple[PipelineRecord, ...]:
        """Return the versions of a pipeline, oldest first; raise `NotFoundError` with the nearest names."""
        return self._get(_pipeline(name), tuple[PipelineRecord, ...])

    def enable_pipeline(self, reference: PackageReference, *, is_enabled: bool) -> tuple[PipelineRecord, ...]:
        """Enable or disable a version, or without a number all versions; a disabled one starts no job."""
        numbers = (
            [reference.version]
            if reference.version is not None
            else [each.version for each in self.pipeline_versions(reference.name)]
        )
        request = EnableRequest(is_enabled=is_enabled)
        path = _pipeline(reference.name)
        return tuple(self._send("PUT", f"{path}/versions/{number}/enabled", PipelineRecord, request) for number in numbers)

    def submit_job(self, request: JobRequest) -> JobRecord:
        """Run a pipeline; the cloud starts its first steps."""
        return self._send("POST", "/v1/jobs", JobRecord, request)

    def jobs(self, *, experiment: str | None = None, limit: int = 100, before: int | None = None) -> tuple[JobRecord, ...]:
        """Return jobs, newest first; `before`, the last number of the page before, gives the next page."""
        return self._get("/v1/jobs", tuple[JobRecord, ...], experiment=experiment, limit=limit, before=before)

    def job(self, number: int) -> JobRecord:
        """Return one job; raise `NotFoundError` if no job has this number."""
        return self._get(f"/v1/jobs/{number}", JobRecord)

    def cancel_job(self, number: int) -> JobRecord:
        """Cancel a job: its steps that run are stopped, the others do not start."""
        return self._send("POST", f"/v1/jobs/{number}/cancel", JobRecord)

    def watch_job(self, number: int, *, timeout_s: float | None = None) -> Iterator[JobRecord]:
        """Yield a job now and after each change until it has ended, by long-poll requests.

        Raises:
            OperationError: it has not ended within `timeout_s`.
        """
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        seen, last = self._change_number(0, 0), None
        while True:
            record = self.job(number)
            if record != last:
                yield record
            if record.state.is_final:
                return
            last = record
            left_s = _POLL_S if ends_at is None else ends_at - time.monotonic()
            if left_s <= 0:
                raise OperationError(f"job {number} must end within {timeout_s:g} s, but it is {record.state}")
            seen = self._change_number(seen, min(_POLL_S, left_s))

    def step_log(self, job: int, step: str, *, after: int = 0) -> StepLog:
        """Return the output of a step's script from an offset in bytes on."""
        return self._get(f"{_step(job, step)}/log", StepLog, after=after)

    def step_files(self, job: int, step: str) -> tuple[JobFile, ...]:
        """Return the files of a step, by path."""
        return self._get(f"{_step(job, step)}/files", tuple[JobFile, ...])

    def download_step_file(self, file: JobFile, job: int, target: Path) -> None:
        """Write a file of a step to a path; folders are created."""
        with writing_atomically(target) as stream:
            for start in range(0, file.size, CHUNK_BYTES):
                end = min(start + CHUNK_BYTES, file.size) - 1
                response = self._connection.request(
                    "GET", f"{_step(job, file.step)}/file", query={"path": file.path}, headers={"Range": f"bytes={start}-{end}"}
                )
                if len(response.body) != end - start + 1:
                    raise OperationError(f"{file.path} must stay as it is while it is read, but it changed: try again")
                stream.write(response.body)

    def create_schedule(self, name: str, request: ScheduleRequest) -> ScheduleRecord:
        """Create or replace a schedule."""
        return self._send("PUT", _schedule(name), ScheduleRecord, request)

    def schedules(self) -> tuple[ScheduleRecord, ...]:
        """Return every schedule, by name."""
        return self._get("/v1/schedules", tuple[ScheduleRecord, ...])

    def schedule(self, name: str) -> ScheduleRecord:
        """Return one schedule; raise `NotFoundError` with the nearest names."""
        return self._get(_schedule(name), ScheduleRecord)

    def enable_schedule(self, name: str, *, is_enabled: bool) -> ScheduleRecord:
        """Enable or disable a schedule."""
        return self._send("PUT", f"{_schedule(name)}/enabled", ScheduleRecord, EnableRequest(is_enabled=is_enabled))

    def delete_schedule(self, name: str) -> ScheduleRecord:
        """Delete a schedule; its jobs stay."""
        return self._send("DELETE", _schedule(name), ScheduleRecord)

    def _change_number(self, after: int, wait_s: float) -> int:
        response = self._connection.request(
            "GET", "/v1/changes", query={"after": after, "wait_s": wait_s}, timeout_s=TIMEOUT_S + wait_s
        )
        return wire.decode(response.body, ChangeNumber, what="the number of changes", error=OperationError).number


def _pipeline(name: str) -> str:
    return f"/v1/pipelines/{quote(name, safe='')}"


def _step(job: int, step: str) -> str:
    return f"/v1/jobs/{job}/steps/{quote(step, safe='')}"


def _schedule(name: str) -> str:
    return f"/v1/schedules/{quote(name, safe='')}"
