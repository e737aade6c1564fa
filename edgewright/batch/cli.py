"""`edgewright batch`: score files and tables in batches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgewright.batch.driver import read_report, run_job
from edgewright.batch.job import InputKind, OutputAction, read_job
from edgewright.batch.ledger import JobState
from edgewright.batch.report import BatchReport
from edgewright.command_line import ModelPath, common_options, print_json, print_table


@click.group()
def group() -> None:
    """Score files and tables in batches, and continue after an interruption."""


@group.command()
@click.argument("file", metavar="[JOB.yaml]", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", type=ModelPath("package"), help="Package, build directory or model file, or models:NAME.")
@click.option("--script", type=click.Path(dir_okay=False), help="Python file with init() and run(mini_batch).")
@click.option("--input", "input", multiple=True, help="File or folder to score; repeatable.")
@click.option("--output", help="Folder of the results, the report and the ledger.")
@click.option("--model-dir", type=ModelPath("files"), help="Folder of the script's models (AZUREML_MODEL_DIR), or models:NAME.")
@click.option("--argument", "arguments", multiple=True, help="Command-line argument of the script; repeatable.")
@click.option("--variant", help="Score with this variant; default: the one that fits this machine best.")
@click.option("--backend", help="Run the variant with this backend.")
@click.option("--trust", is_flag=True, default=None, help="Open a pickle or a layer with code: you made the model.")
@click.option("--kind", type=click.Choice([each.value for each in InputKind]), help="Kind of the input; default: by suffixes.")
@click.option("--mini-batch", help="Rows or files of a mini-batch, or its size as in 1MB.")
@click.option("--column", "columns", multiple=True, help="Column that the model reads; repeatable.")
@click.option("--keep", multiple=True, help="Column to copy to the results; repeatable.")
@click.option("--partition-key", "partition_keys", multiple=True, help="A mini-batch has one value of it; repeatable.")
@click.option("--output-action", type=click.Choice([each.value for each in OutputAction]), help="Form of the results.")
@click.option("--append-row-file-name", help="File of append_row: .parquet, .csv, .jsonl, .arrow or .txt.")
@click.option("--run-max-try", type=click.IntRange(1), help="Tries of a mini-batch.")
@click.option("--run-invocation-timeout", type=click.FloatRange(min=0.01), help="Seconds of run() for a mini-batch.")
@click.option("--error-threshold", type=click.IntRange(-1), help="Failed rows or files that are accepted; -1: any number.")
@click.option("--workers", type=click.IntRange(1), help="Worker processes; default: one per processor.")
@click.option("--overwrite", is_flag=True, help="Remove the results of another job from the output folder.")
@click.option("--retry-failed", is_flag=True, help="Score again where rows or files failed.")
@common_options
@click.pass_context
def run(context: click.Context, /, file: Path | None, overwrite: bool, retry_failed: bool, as_json: bool, **given: Any) -> None:
    """Score the inputs of a job, or continue it.

    JOB.yaml has the fields of a job; options add to it or replace its values. The results are in the order of the inputs. The
    same command continues after an interruption, and no row is lost or scored into the output twice.
    """
    values = {name: _plain(value) for name, value in given.items() if value not in (None, ())}
    job = read_job(file, values)
    with _Bar() as bar:
        report = run_job(job, overwrite=overwrite, retry_failed=retry_failed, progress=bar.show)
    _show(report, as_json=as_json)
    context.exit(1 if report.state is JobState.FAILED else 0)


@group.command()
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@common_options
def status(output: Path, as_json: bool) -> None:
    """Show the progress of the job with this output folder."""
    _show(read_report(output), as_json=as_json)


class _Bar:
    """A progress bar on the error stream, if that is a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def show(self, done: int, count: int) -> None:
        """Draw the share of tasks that are done."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = click.progressbar(length=count, label="scoring", file=sys.stderr)
        self._bar.update(done - self._bar.pos)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _show(report: BatchReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    where = ", ".join(f"{report.output}/{name}" for name in report.output_files[:3]) or report.output
    more = len(report.output_files) - 3
    rows: list[tuple[str, object]] = [
        ("state", f"{report.state}: {report.reason}" if report.reason else report.state),
        ("scored", f"{report.succeeded} of {report.items}"),
        ("failed", report.failed),
        ("tasks", f"{report.tasks_done} of {report.tasks}"),
        ("runs", report.runs),
        ("time", f"{report.wall_s:.1f} s ({report.items_per_s:,.0f} per second, {report.cpu_s:.1f} s of processor time)"),
        ("output", f"{where} and {more} more" if more > 0 else where),
    ]
    print_table(("what", "value"), rows)
    if report.errors:
        click.echo()
        print_table(("failed", "error", "first"), [(each.count, each.error, each.items[0]) for each in report.errors])
