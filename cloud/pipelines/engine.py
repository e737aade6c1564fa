"""The job engine: observe each job, ask the rules for the next actions, and carry them out; start what schedules ask for.

    drive_jobs         loop until cancelled: advance every job of this cloud, each in a thread of its own
    drive_schedules    loop until cancelled: start the jobs of schedules that are due

The engine is level-triggered: it reads the tables, the files and the locks each time, so it may be killed between any two
statements. The scripts do not depend on it: they continue without this process, and their end is read from their folders.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from anyio import to_thread

from cloud.context import Cloud
from cloud.db.database import Counter
from cloud.environments import store as environments
from cloud.pipelines import operations, schedules
from cloud.pipelines.folder import JobFolder
from cloud.pipelines.rules import Action, Finish, Launch, Note, Observed, Prepare, Stop, Stored, next_actions
from cloud.pipelines.schedules import Content, StoredSchedule
from cloud.pipelines.step_process import END_TIMEOUT_S
from cloud.pipelines.store import StoredJob, active_jobs, find_job, save
from edgewright.contracts.environments.definition import parse_environment_reference
from edgewright.contracts.pipelines.definition import Step
from edgewright.contracts.pipelines.expressions import Reference, evaluate
from edgewright.contracts.pipelines.jobs import JobState, StepRecord, StepState
from edgewright.contracts.wire import digest_of
from edgewright.errors import EdgewrightError

POLL_INTERVAL_S = 0.2
IDLE_INTERVAL_S = 1.0
PLACES = max(1, os.cpu_count() or 1)
"""Steps of one job that run at once."""
_MODULE = "cloud.pipelines.step_process"
_LOG = logging.getLogger("edgewright.cloud.pipelines")


async def drive_jobs(cloud: Cloud) -> None:
    """Advance all jobs until cancelled; the service restarts this task after an error."""
    engine = Engine(cloud)
    running: dict[int, asyncio.Task[None]] = {}
    while True:
        seen = cloud.changes.number(Counter.CHANGES)
        active = await to_thread.run_sync(engine.active)
        for job in active:
            if job not in running or running[job].done():
                running[job] = asyncio.create_task(_advance(engine, job))
        if active:
            cloud.last_used_s = monotonic()  # an embedded cloud does not stop while a job runs
        running = {job: task for job, task in running.items() if job in active or not task.done()}
        await cloud.changes.wait(Counter.CHANGES, seen, POLL_INTERVAL_S if active else IDLE_INTERVAL_S)
        await asyncio.sleep(POLL_INTERVAL_S / 2)


async def _advance(engine: Engine, job: int) -> None:
    try:
        await to_thread.run_sync(engine.advance, job)
    except Exception:  # noqa: BLE001  an error of one job must not stop the others
        _LOG.exception("job failed to advance job=%d", job)


class Engine:
    """Actions of the jobs of one cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._owner = cloud.owner
        self._children: dict[tuple[int, str], subprocess.Popen[bytes]] = {}
        self._stopped_s: dict[tuple[int, str], float] = {}

    def active(self) -> list[int]:
        """Return the numbers of the jobs that this cloud must advance."""
        with self._cloud.database.reading() as connection:
            return active_jobs(connection, self._owner)

    def advance(self, number: int) -> None:
        """Carry out the next actions of one job."""
        for key in [key for key, child in self._children.items() if child.poll() is not None]:
            del self._children[key]
        with self._cloud.database.reading() as connection:
            job = find_job(connection, number)
        if job is None or job.state.is_final:
            return
        folder = folder_of(self._cloud, number)
        stored = Stored(pipeline=job.definition, steps=job.steps, is_canceling=job.state is JobState.CANCELING)
        observed = folder.observe(job.definition)
        actions = next_actions(stored, observed, places=PLACES, now=datetime.now(UTC))
        failed = [record for action in actions if (record := self._carry_out(action, job, folder, observed)) is not None]
        self._store(job, [action.record for action in actions if isinstance(action, Note)] + failed, actions)

    def _carry_out(self, action: Action, job: StoredJob, folder: JobFolder, observed: dict[str, Observed]) -> StepRecord | None:
        """Carry out an action on processes or files; return the record of a step that cannot be prepared."""
        match action:
            case Prepare():
                try:
                    self._prepare(job, action, folder)
                except EdgewrightError as error:
                    record = next(record for record in job.steps if record.name == action.step)
                    now = datetime.now(UTC)
                    return replace(record, state=StepState.FAILED, reason=f"its files cannot be prepared: {error}", ended_at=now)
                self._launch(job.job, action.step, folder.attempt(action.step, action.attempt))
            case Launch():
                self._launch(job.job, action.step, folder.attempt(action.step, observed[action.step].attempt))
            case Stop():
                self._stop((job.job, action.step), folder.leader(action.step))
            case Note() | Finish():
                return None
        _LOG.info("carried out action job=%d action=%s", job.job, action)
        return None

    def _store(self, job: StoredJob, records: Iterable[StepRecord], actions: Iterable[Action]) -> None:
        """Store new records of steps and the end of the job, unless an operator canceled it meanwhile."""
        changed = {record.name: record for record in records}
        end = next((action for action in actions if isinstance(action, Finish)), None)
        if not changed and end is None:
            return
        with self._cloud.database.transaction() as connection:
            current = find_job(connection, job.job)
            if current is None or current.state is not job.state:
                return
            steps = tuple(changed.get(record.name, record) for record in current.steps)
            current = replace(current, steps=steps)
            if end is not None:
                current = replace(current, state=end.state, reason=end.reason, ended_at=datetime.now(UTC))
            save(connection, current)

    def _prepare(self, job: StoredJob, action: Prepare, folder: JobFolder) -> None:
        step = job.definition.step(action.step)
        attempt = folder.attempt(step.name, action.attempt)
        values = _Values(job, step, folder, attempt)
        order = {
            "command": [sys.executable, "-u", step.script, *(values.of(argument) for argument in step.arguments)],
            "directory": str(attempt / "work"),
            "variables": {**self._variables(step), **values.run(), **values.variables(), **self._access()},
            "timeout_s": step.timeout_s,
        }
        folder.prepare(step, action.attempt, self._cloud.blobs, order)

    def _access(self) -> dict[str, str]:
        """Return the variable by which a script reaches this cloud."""
        return {"EDGEWRIGHT_CLOUD": str(self._cloud.state.client_file.resolve())}

    def _variables(self, step: Step) -> dict[str, str]:
        if not step.environment:
            return {}
        with self._cloud.database.reading() as connection:
            return dict(environments.find(connection, parse_environment_reference(step.environment)).environment.variables)

    def _launch(self, job: int, step: str, attempt: Path) -> None:
        """Start the process of a step in a session of its own, unless one that was started before has not begun yet."""
        if (job, step) in self._children:
            return
        paths = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
        with (attempt / "process.log").open("ab") as log:
            self._children[(job, step)] = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(attempt)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": paths},
            )

    def _stop(self, key: tuple[int, str], leader: int | None) -> None:
        """End the processes of a step: SIGTERM once, and SIGKILL after some time."""
        if leader is None:
            return
        now_s = monotonic()
        began_s = self._stopped_s.setdefault(key, now_s)
        with suppress(ProcessLookupError):
            if began_s == now_s:
                os.killpg(leader, signal.SIGTERM)
            elif now_s - began_s > END_TIMEOUT_S:
                os.killpg(leader, signal.SIGKILL)


class _Values:
    """The values of the expressions of one step."""

    def __init__(self, job: StoredJob, step: Step, folder: JobFolder, attempt: Path) -> None:
        self._job, self._step, self._folder, self._attempt = job, step, folder, attempt

    def of(self, text: str) -> str:
        """Return a text with the values of its expressions."""
        return evaluate(text, self._value)

    def variables(self) -> dict[str, str]:
        """Return the variables of the step."""
        return {name: self.of(text) for name, text in self._step.variables.items()}

    def run(self) -> dict[str, str]:
        """Return the variables that name the run of the step."""
        run = f"job-{self._job.job}.{self._step.name}"
        return {"EDGEWRIGHT_RUN_ID": run, "AZUREML_RUN_ID": run}

    def _value(self, reference: Reference) -> str:
        if reference.kind == "parameters":
            value = self._job.parameters[reference.name]
            return str(value).lower() if isinstance(value, bool) else str(value)
        if reference.kind == "inputs":
            return self.of(self._step.inputs[reference.name])
        if reference.step:
            return str(self._folder.output(reference.step, reference.name))
        return str(self._attempt / "data" / reference.name)


async def drive_schedules(cloud: Cloud) -> None:
    """Start the jobs of due schedules until cancelled; the service restarts this task after an error."""
    while True:
        for schedule in await to_thread.run_sync(_due, cloud):
            await to_thread.run_sync(_fire, cloud, schedule)
        await asyncio.sleep(IDLE_INTERVAL_S)


def _due(cloud: Cloud) -> list[StoredSchedule]:
    with cloud.database.reading() as connection:
        if any(each.record.is_enabled and each.owner == cloud.owner for each in schedules.all_schedules(connection)):
            cloud.last_used_s = monotonic()  # an embedded cloud does not stop while a schedule is enabled
        return schedules.due(connection, cloud.owner, datetime.now(UTC))


def _fire(cloud: Cloud, schedule: StoredSchedule) -> None:
    """Move the next time of a schedule and, in the same transaction, start its job."""
    now, request, content = datetime.now(UTC), schedule.record.request, schedule.content
    starts = True
    if request.folder:
        present = content_of(Path(request.folder))
        starts = present not in ("", content.started) and present == content.last
        content = Content(started=present if starts else content.started, last=present)
    try:
        with cloud.database.transaction() as connection:
            if schedules.move(connection, schedule, content, now) and starts:
                job = operations.submit_scheduled(cloud, connection, schedule.record, now)
                schedules.note(connection, schedule.record.schedule, job=job.job)
    except EdgewrightError as error:
        _LOG.warning("schedule starts no job schedule=%s error=%s", schedule.record.schedule, error)
        with cloud.database.transaction() as connection:
            if schedules.move(connection, schedule, content, now):
                schedules.note(connection, schedule.record.schedule, reason=str(error))


def content_of(folder: Path) -> str:
    """Return a digest of the names, sizes and times of the files below a folder; empty without files."""
    found: list[Any] = []
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            if path.is_file():
                status = path.stat()
                found.append(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}")
    return digest_of("\n".join(found).encode()) if found else ""


def folder_of(cloud: Cloud, job: int) -> JobFolder:
    """Return the folder of a job."""
    return JobFolder(cloud.state.path / "jobs" / str(job))
