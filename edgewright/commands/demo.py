"""`edgewright demo`: the main job end to end on real data."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from edgewright.demo.story import run_demo
from edgewright.errors import OperationError


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("build/demo"),
    show_default=True,
    help="Working directory.",
)
@click.option("--no-broker", is_flag=True, help="Reach the devices over HTTPS alone, even if mosquitto is installed.")
@click.option("--no-npu", is_flag=True, help="Run without the simulated NPU board, even if it could be built.")
@click.option(
    "--reuse",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory of an earlier demo whose models and packages are used, instead of training and building.",
)
@click.option("--keep", is_flag=True, help="Keep the cloud and the devices running at the end, until Ctrl-C.")
def command(output: Path, no_broker: bool, no_npu: bool, reuse: Path | None, keep: bool) -> None:
    """Run the main job end to end on real data."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends every process, as Ctrl-C does
    earlier = reuse.resolve() if reuse else None
    summary = run_demo(output.resolve(), keep=keep, no_broker=no_broker, no_npu=no_npu, reuse=earlier)
    if not summary["bad_version"]["halted"]:
        raise OperationError("the rollout of the bad version must be halted, but it was not")
    click.echo(f"\nwrote {output / 'summary.json'}")
