"""`edgewright bench`."""

from __future__ import annotations

from pathlib import Path

import click

from accel.backends.choose import AUTO, Fastest
from accel.bench import BenchMachine, BenchResult, BenchSettings, Subject, fastest, measure, subjects, this_machine
from edgewright.command_line import common_options, print_json, print_table, progress
from edgewright.errors import OperationError

COLUMNS = (
    "VARIANT",
    "BACKEND",
    "PRECISION",
    "MEDIAN_MS",
    "P95_MS",
    "P99_MS",
    "MIN_MS",
    "PER_SECOND",
    "PEAK_MIB",
    "VARIANT_MIB",
    "SIZE_BYTES",
)


@click.command()
@click.argument("path", metavar="MODEL|BUILD|PACKAGE", type=click.Path(path_type=Path))
@click.option("--variant", help="Measure this variant only; default: all of them.")
@click.option("--backend", default=AUTO, show_default=True, help="Run with this backend; auto takes the fastest here.")
@click.option("--threads", type=int, help="Threads of the backend; default: its own choice.")
@click.option("--batch", type=int, default=1, show_default=True, help="Samples per run.")
@click.option("--runs", type=int, default=100, show_default=True, help="Timed runs after the warm-up.")
@common_options
def command(path: Path, variant: str | None, backend: str, threads: int | None, batch: int, runs: int, as_json: bool) -> None:
    """Measure latency, throughput and memory on this machine.

    MODEL is any .onnx file, BUILD a build directory, PACKAGE a layout directory or one tar of it. Every variant runs in a
    process of its own: warm-up until times are stable, then single timed runs. Which variant and backend is the fastest here is
    measured beforehand, in turns, and remembered.
    """
    settings = BenchSettings(backend=backend, threads=threads, batch=batch, runs=runs)
    with subjects(path, variant) as found:
        best = fastest(found, settings)
        results, left_out = _measure_all(found, settings)
    machine = this_machine()
    if as_json:
        print_json({"machine": machine, "results": results, "left_out": left_out, "fastest": best})
        return
    print_table(COLUMNS, [_row(result) for result in results])
    click.echo(f"\n{_described(machine, settings)}")
    if best is not None:
        click.echo(_told(best))
    for name, reason in left_out.items():
        click.echo(f"left out {name}: {reason}", err=True)


def _measure_all(found: tuple[Subject, ...], settings: BenchSettings) -> tuple[list[BenchResult], dict[str, str]]:
    """Measure all; one that cannot run on this machine is left out with its reason, unless it is the only one."""
    results: list[BenchResult] = []
    left_out: dict[str, str] = {}
    for subject in progress(found, "measuring"):
        try:
            results.append(measure(subject, settings))
        except OperationError as failed:
            left_out[subject.name] = str(failed)
    if not results:
        raise OperationError("; ".join(left_out.values()))
    return results, left_out


def _row(result: BenchResult) -> tuple[object, ...]:
    latency = result.latency_ms
    return (
        result.variant,
        result.backend,
        result.precision,
        latency.median_ms,
        latency.p95_ms,
        latency.p99_ms,
        latency.min_ms,
        round(result.throughput_per_s),
        round(result.peak_memory_mib),
        round(result.variant_memory_mib),
        result.size_bytes,
    )


def _told(best: Fastest) -> str:
    times = ", ".join(f"{name} {time_ms:.3g} ms" for name, time_ms in sorted(best.shortlist_ms.items(), key=lambda one: one[1]))
    return f"fastest here: {best.variant} on {best.backend} (measured in turns: {times})"


def _described(machine: BenchMachine, settings: BenchSettings) -> str:
    threads = "threads as the backend chooses" if settings.threads is None else f"threads {settings.threads}"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"batch {settings.batch}, {threads}; {machine.cpu_model} ({machine.architecture}), {machine.cpu_cores} cores, "
        f"{machine.memory_mib} MiB; {versions}"
    )
