"""`edgewright jobs`: run pipelines and read what they wrote."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from edgewright.command_line import duration, print_json, print_table
from edgewright.commands.cloud_options import cloud_options, label, moment, transfer_progress
from edgewright.contracts.models.registration import check_relative
from edgewright.contracts.pipelines.definition import Value
from edgewright.contracts.pipelines.jobs import JobRecord, JobRequest, JobState, StepRecord
from edgewright.errors import BadInputError, NotWritableError, OperationError
from edgewright.sdk import CloudClient
from edgewright.sdk.pipelines.file import push_pipeline, read_pipeline

_COLUMNS = ("job", "pipeline", "experiment", "state", "steps", "started", "took", "reason")
_STEP_COLUMNS = ("step", "state", "attempt", "took", "reason")
_PIPELINE_FILES = (".yaml", ".yml")


@click.group("jobs")
def group() -> None:
    """Run pipelines, watch them, and read their logs and files."""


@group.command("run")
@click.argument("pipeline", metavar="NAME[:VERSION]|FILE")
@click.option("--parameter", "parameters", type=label, multiple=True, metavar="NAME=VALUE", help="Value (repeat for more).")
@click.option("--experiment", default="default", show_default=True, help="Name under which jobs are found together.")
@click.option("--no-wait", is_flag=True, help="Return when the job is accepted.")
@click.option("--timeout", "timeout_s", type=duration, help="Stop waiting after this time; the job continues.")
@cloud_options
def run(
    pipeline: str,
    *,
    parameters: tuple[tuple[str, str], ...],
    experiment: str,
    no_wait: bool,
    timeout_s: float | None,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Run a published pipeline, or one in a YAML file, and wait for its end.

    The exit code is 1 if the job fails.
    """
    values: dict[str, Value] = dict(parameters)
    path = Path(pipeline)
    is_file = path.suffix in _PIPELINE_FILES
    content = read_pipeline(path) if is_file else None
    with CloudClient.connect(cloud, start_embedded=True) as client:
        if content is not None:
            with transfer_progress("sending") as on_progress:
                definition = push_pipeline(client, path, content, on_progress)
            request = JobRequest(definition=definition, experiment=experiment, parameters=values)
        else:
            request = JobRequest(pipeline=pipeline, experiment=experiment, parameters=values)
        record = client.submit_job(request)
        if not no_wait:
            record = _wait(client, record.job, timeout_s)
    _finish(record, as_json=as_json)


@group.command("list")
@click.option("--experiment", help="Only jobs of this experiment.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Number of jobs.")
@click.option("--before", type=click.IntRange(1), metavar="JOB", help="Only jobs before this one, for the next page.")
@cloud_options
def list_jobs(experiment: str | None, limit: int, before: int | None, cloud: str | None, as_json: bool) -> None:
    """List jobs, newest first."""
    with CloudClient.connect(cloud) as client:
        records = client.jobs(experiment=experiment, limit=limit, before=before)
    if as_json:
        print_json(records)
        return
    print_table(_COLUMNS, [_row(record) for record in records])


@group.command("show")
@click.argument("job", type=click.IntRange(1))
@click.option("--wait", is_flag=True, help="Wait for its end.")
@click.option("--timeout", "timeout_s", type=duration, help="Stop waiting after this time.")
@cloud_options
def show(job: int, wait: bool, timeout_s: float | None, cloud: str | None, as_json: bool) -> None:
    """Show a job and its steps."""
    with CloudClient.connect(cloud) as client:
        record = _wait(client, job, timeout_s) if wait else client.job(job)
    if as_json:
        print_json(record)
    else:
        _print(record)


@group.command("cancel")
@click.argument("job", type=click.IntRange(1))
@cloud_options
def cancel(job: int, cloud: str | None, as_json: bool) -> None:
    """Cancel a job: its steps that run are stopped, the others do not start."""
    with CloudClient.connect(cloud) as client:
        record = client.cancel_job(job)
    if as_json:
        print_json(record)
    else:
        click.echo(f"job {job} is being canceled")


@group.command("logs")
@click.argument("job", type=click.IntRange(1))
@click.option("--step", help="Step of the job; default: the only one, or the first that failed.")
@cloud_options
def logs(job: int, step: str | None, cloud: str | None, as_json: bool) -> None:
    """Print the output of a step's script."""
    with CloudClient.connect(cloud) as client:
        name = step or _interesting(client.job(job))
        pieces, after = [], 0
        while (piece := client.step_log(job, name, after=after)).text:
            pieces.append(piece.text)
            after = piece.next
    if as_json:
        print_json({"job": job, "step": name, "text": "".join(pieces)})
    else:
        click.echo("".join(pieces), nl=False)


@group.command("files")
@click.argument("job", type=click.IntRange(1))
@cloud_options
def files(job: int, cloud: str | None, as_json: bool) -> None:
    """List the files that the steps of a job have written."""
    with CloudClient.connect(cloud) as client:
        found = [file for step in _started(client.job(job)) for file in client.step_files(job, step)]
    if as_json:
        print_json(found)
    else:
        print_table(("step", "file", "bytes"), [(file.step, file.path, file.size) for file in found])


@group.command("download")
@click.argument("job", type=click.IntRange(1))
@click.option("--step", help="Only files of this step.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder for the files, by step.")
@cloud_options
def download(job: int, step: str | None, output: Path, cloud: str | None, as_json: bool) -> None:
    """Write the files of a job into a new folder."""
    if output.exists():
        raise NotWritableError(f"{output} must not exist, but it does: choose another folder")
    with CloudClient.connect(cloud) as client:
        steps = [step] if step is not None else _started(client.job(job))
        found = [file for name in steps for file in client.step_files(job, name)]
        if not found:
            raise BadInputError(
                f"job {job} must have written files to be downloaded, but it has not: 'edgewright jobs show {job}'"
            )
        total, done = sum(file.size for file in found), 0
        with transfer_progress("receiving") as on_progress:
            for file in found:
                client.download_step_file(file, job, output / file.step / check_relative(file.path))
                done += file.size
                on_progress(done, total)
    if as_json:
        print_json({"folder": output, "files": found})
    else:
        click.echo(f"{output}: {len(found)} files")


def _wait(client: CloudClient, job: int, timeout_s: float | None) -> JobRecord:
    """Return a job when it has ended; on a terminal, each change of a step is a line."""
    shown: dict[str, StepRecord] = {}
    record = client.job(job)
    for record in client.watch_job(job, timeout_s=timeout_s):
        for step in record.steps:
            if sys.stderr.isatty() and shown.get(step.name) != step:
                click.echo(f"job {job} step {step.name}: {step.state}{f' ({step.reason})' if step.reason else ''}", err=True)
            shown[step.name] = step
    return record


def _finish(record: JobRecord, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        _print(record)
    if record.state is JobState.FAILED:
        raise OperationError(f"job {record.job} failed: {record.reason}; 'edgewright jobs logs {record.job}' shows the output")


def _print(record: JobRecord) -> None:
    what = record.pipeline or "a pipeline that is not published"
    click.echo(f"job {record.job} of {what}: {record.state}{f' ({record.reason})' if record.reason else ''}")
    rows = [
        (step.name, step.state, step.attempt, _took(step.started_at, step.ended_at), step.reason or "-") for step in record.steps
    ]
    print_table(_STEP_COLUMNS, rows)


def _row(record: JobRecord) -> tuple[object, ...]:
    done = sum(step.state.is_final for step in record.steps)
    took = _took(record.created_at, record.ended_at)
    head = record.job, record.pipeline or "-", record.experiment, record.state, f"{done}/{len(record.steps)}"
    return (*head, moment(record.created_at), took, record.reason or "-")


def _took(started_at: datetime | None, ended_at: datetime | None) -> str:
    if started_at is None:
        return "-"
    return f"{((ended_at or datetime.now(UTC)) - started_at).total_seconds():.1f} s"


def _started(record: JobRecord) -> list[str]:
    return [step.name for step in record.steps if step.attempt]


def _interesting(record: JobRecord) -> str:
    failed = [step.name for step in record.steps if step.state.value == "Failed"]
    if failed or len(record.steps) == 1:
        return (failed or [record.steps[0].name])[0]
    names = ", ".join(step.name for step in record.steps)
    raise BadInputError(f"job {record.job} has several steps, so --step must name one of them: {names}")
