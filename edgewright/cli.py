"""The root command: a table of commands that are imported on use, so that `--help` imports no framework.

It also turns every `EdgewrightError` into one line and an exit code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

from edgewright import __version__
from edgewright.errors import EdgewrightError
from edgewright.supervised import run_in_child

_OUTPUT_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Lazy(NamedTuple):
    """The module and attribute of a command, its line in `--help`, and the extra that it needs (None: the base install)."""

    where: str
    help: str
    extra: str | None


COMMANDS: dict[str, Lazy] = {
    "convert": Lazy("convert.cli:command", "Convert a trained model to verified ONNX in a build directory.", "convert"),
    "featurizers": Lazy("convert.featurizers.cli:group", "List and build networks.", "convert"),
    "quantize": Lazy("quantize.cli:command", "Add a variant of lower precision, with its measured accuracy.", "quantize"),
    "compile": Lazy("edgewright.commands.compile:command", "Compile a quantized variant for an NPU.", "quantize"),
    "evaluate": Lazy("accel.evaluate_cli:command", "Measure accuracy, agreement and latency of variants.", None),
    "report": Lazy("quantize.report.cli:command", "Write one page on all variants: accuracy, size, latency, SQNR.", "quantize"),
    "bench": Lazy("edgewright.commands.fleet.bench:command", "Measure latency, throughput and memory, here or on devices.", None),
    "npu": Lazy("accel.npu.cli:group", "Compile for, simulate and cost the FPGA NPU.", "quantize"),
    "packages": Lazy("edgewright.commands.packages:group", "Build, sign, inspect, verify and move packages.", None),
    "export": Lazy(
        "edgewright.export.cli:command",
        "Write a model as files for Power BI, Data Explorer, Spark, C#, Java or DuckDB.",
        "quantize",
    ),
    "serve": Lazy("edgewright.commands.serve:command", "Score over HTTP with a package, a model file or an entry script.", None),
    "profile": Lazy("edgewright.profiling.cli:command", "Recommend CPU, memory and workers for a rate and a latency.", None),
    "batch": Lazy(
        "edgewright.batch.cli:group", "Score files and tables in batches, and continue after an interruption.", "batch"
    ),
    "publish": Lazy("edgewright.commands.publish:command", "Sign a package and publish it as the next version.", None),
    "models": Lazy("edgewright.commands.models:group", "Register, list, tag, download and delete models.", None),
    "environments": Lazy("edgewright.commands.environments:group", "Describe what scoring scripts need.", None),
    "endpoints": Lazy("edgewright.commands.endpoints:group", "Deploy, show, update and delete scoring endpoints.", None),
    "images": Lazy("edgewright.commands.images:group", "Build container images that score.", None),
    "pipelines": Lazy(
        "edgewright.commands.pipelines.pipelines:group", "Publish pipelines of scripts, which jobs and schedules run.", None
    ),
    "jobs": Lazy("edgewright.commands.pipelines.jobs:group", "Run pipelines, watch them, and read their logs and files.", None),
    "schedules": Lazy(
        "edgewright.commands.pipelines.schedules:group",
        "Run published pipelines by the clock, or when a folder has new data.",
        None,
    ),
    "devices": Lazy("edgewright.commands.devices:group", "Enrol, list, explain and revoke devices.", None),
    "telemetry": Lazy("edgewright.commands.telemetry:group", "Copy the measurements of devices to Azure Data Explorer.", "azure"),
    "rollouts": Lazy("edgewright.commands.rollouts:group", "Roll a version out in guarded waves.", None),
    "cloud": Lazy("cloud.cli:group", "Run the service.", "cloud"),
    "iothub": Lazy("cloud.iothub.cli:group", "Run a local IoT Hub for the development of devices.", "cloud"),
    "agent": Lazy("edge_agent.cli:group", "Enrol, run and inspect the agent of this device.", None),
    "iotedge": Lazy("edgewright.commands.iotedge.group:group", "Deploy models as modules of Azure IoT Edge.", None),
    "azureml": Lazy("edgewright.commands.azureml:group", "Move scripts of Azure ML's SDK v1 to this product.", None),
    "profiles": Lazy("hardware_profiles.cli:group", "Describe hardware, detect this machine's, check your own.", None),
    "demo": Lazy("edgewright.commands.demo:command", "Run the main job end to end on real data.", "convert,quantize,cloud"),
}

_RUN_MODELS = frozenset({"convert", "quantize", "compile", "evaluate", "report", "bench", "npu", "packages", "export"})
"""Commands that load runtimes and end when their work is done: a native crash of them is reported in one line."""
_ENDLESS = ("npu", "simulate")
"""A command of these that runs until it is interrupted, and reports the end of its board itself."""


class LazyGroup(click.Group):
    """A group that imports a command when it is run, and reports an error as one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the workflow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of `cmd_name`."""
        if cmd_name not in COMMANDS:
            return None
        where, _, extra = COMMANDS[cmd_name]
        module_name, _, attribute = where.partition(":")
        try:
            command: click.Command = getattr(import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            own_package = module_name.partition(".")[0]
            if extra is None or (error.name or "").partition(".")[0] == own_package:
                raise
            raise click.ClickException(
                f"'{cmd_name}' needs {error.name}, which is not installed. Run: pip install 'edgewright[{extra}]'"
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help lines without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        """Run with the arguments; a path that is not UTF-8 and a full standard output end with one line."""
        if args is None:
            args = sys.argv[1:]
            _protect_from_crashes(args)
        try:
            for argument in args:
                os.fspath(argument).encode()
            return super().main(args, *others, **options)
        except UnicodeEncodeError as error:
            _end(f"paths and arguments must be UTF-8, but {_shown(error.object)} is not: rename it, or the folder", 2)
        except OSError as error:
            if error.filename is not None or error.errno not in _OUTPUT_FAILURES:
                raise
            _discard_output()
            _end(f"standard output cannot be written: {error.strerror}", 1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print an `EdgewrightError` as one line and exit with its code."""
        try:
            return super().invoke(ctx)
        except EdgewrightError as error:
            click.echo(f"edgewright: {' '.join(str(error).split())}", err=True)  # the message of a library may have several lines
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, ImportError) as error:
            if not _is_interrupt(error):
                raise
            click.echo("edgewright: interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:  # the reader of the output has closed the pipe
            _discard_output()
            ctx.exit(0)


def _protect_from_crashes(arguments: Sequence[str]) -> None:
    """Continue in a child process if the command runs models."""
    names = [one for one in arguments if not one.startswith("-")]
    is_endless = tuple(names[:2]) == _ENDLESS
    if names and names[0] in _RUN_MODELS and not is_endless and not {"-h", "--help"} & {*arguments}:
        run_in_child(names[0])


def _discard_output() -> None:
    """Send the rest of standard output nowhere, so that flushing it at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str, exit_code: int) -> NoReturn:
    click.echo(f"edgewright: {message}", err=True)
    sys.exit(exit_code)


def _shown(text: str) -> str:
    """Return text with the bytes of a path that are not UTF-8 as escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether an error is Ctrl-C, or comes from it: the import of a native module turns it into an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgewright")
@click.pass_context
def main(context: click.Context) -> None:
    """Take a trained model to a fleet of edge devices."""
    context.obj = _provide_model


@contextlib.contextmanager
def _provide_model(reference: str, content: str) -> Iterator[Path]:
    """Yield the downloaded files of a model reference; see `ModelPath`."""
    from edgewright.commands.model_files import provide_model

    with provide_model(reference, content) as path:
        yield path
