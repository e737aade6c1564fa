"""`edgewright bench`."""

from __future__ import annotations

from pathlib import Path

import click

from accel.backends.choose import AUTO, Fastest
from accel.backends.ort_package import OrtPackage, write_ort_package
from accel.bench import (
    BenchMachine,
    BenchResult,
    BenchSettings,
    BenchTarget,
    fastest,
    measure,
    open_targets,
    refusal,
    this_machine,
)
from edgewright.command_line import common_options, print_json, print_table, progress
from edgewright.contracts.variant import BackendName, VariantDirectory
from edgewright.errors import BadInputError, EdgewrightError, ModelError, OperationError
from hardware_profiles.processors import default_threads

ORT_PACKAGE = "ort-package"
COLUMNS = (
    "variant",
    "backend",
    "precision",
    "median ms",
    "p95 ms",
    "p99 ms",
    "min ms",
    "per second",
    "peak MiB",
    "variant MiB",
    "size bytes",
)


@click.command()
@click.argument("path", metavar="MODEL|BUILD|PACKAGE", type=click.Path(path_type=Path))
@click.option("--variant", help="Measure only this variant; default: all.")
@click.option("--backend", default=AUTO, show_default=True, help="Run with this backend; auto takes the fastest here.")
@click.option("--threads", type=int, help="Number of threads; default: the backend's choice.")
@click.option("--batch", type=int, default=1, show_default=True, help="Samples per run.")
@click.option("--runs", type=int, default=100, show_default=True, help="Timed runs after the warm-up.")
@click.option(
    "--export",
    "export",
    type=(click.Choice([ORT_PACKAGE]), click.Path(path_type=Path)),
    metavar="ort-package DIR",
    help="Also write the variants, fastest first, as a model package from which ONNX Runtime takes the fastest.",
)
@common_options
def command(
    path: Path,
    variant: str | None,
    backend: str,
    threads: int | None,
    batch: int,
    runs: int,
    export: tuple[str, Path] | None,
    as_json: bool,
) -> None:
    """Measure latency, throughput and memory on this machine.

    MODEL is any .onnx file, BUILD a build directory, PACKAGE a layout directory or a tar file of it. Every variant runs in its
    own process: warm-up until the times are stable, then single timed runs. A benchmark of all variants and backends, whose times
    are cached, first finds the fastest.
    """
    settings = BenchSettings(backend=backend, threads=threads, batch=batch, runs=runs)
    if export is not None and backend not in (AUTO, BackendName.ONNXRUNTIME):
        raise BadInputError(f"--export {ORT_PACKAGE} must measure with onnxruntime, not {backend}: leave --backend out")
    with open_targets(path, variant) as targets:
        best = fastest(targets, settings)
        results, skipped = _measure_all(targets, settings)
        exported = None if export is None else write_ort_package(export[1], _variants(targets), threads=threads)
    machine = this_machine()
    if as_json:
        print_json({"machine": machine, "results": results, "skipped": skipped, "fastest": best, "exported": exported})
        return
    print_table(COLUMNS, [_row(result) for result in results])
    click.echo(f"\n{_described(machine, settings)}")
    if best is not None:
        click.echo(_described_fastest(best))
    if exported is not None:
        click.echo(_described_export(exported))
    for name, reason in skipped.items():
        click.echo(f"skipped {name}: {reason}", err=True)


def _variants(targets: tuple[BenchTarget, ...]) -> list[VariantDirectory]:
    return [target.variant for target in targets if target.variant is not None]


def _described_export(exported: OrtPackage) -> str:
    order = ", ".join(f"{name} {time_ms:.3g} ms" for name, time_ms in exported.median_ms.items())
    left_out = "".join(f"; left out {name}: {reason}" for name, reason in exported.left_out.items())
    return f"wrote {exported.path}, in this order: {order}{left_out}"


def _measure_all(targets: tuple[BenchTarget, ...], settings: BenchSettings) -> tuple[list[BenchResult], dict[str, str]]:
    """Measure all targets; return the results, and the reason by name for each target that cannot be loaded or run here.

    Raises:
        BadInputError: none of them scores a batch as that many samples.
        ModelError: none of them can be loaded.
        OperationError: none of them can run here.
    """
    results: list[BenchResult] = []
    failures: list[EdgewrightError] = []
    skipped = {target.name: reason for target in targets if (reason := refusal(target, settings)) is not None}
    if len(skipped) == len(targets):
        raise BadInputError("; ".join(skipped.values()))
    for target in progress([target for target in targets if target.name not in skipped], "measuring"):
        try:
            results.append(measure(target, settings))
        except (ModelError, OperationError) as error:
            skipped[target.name] = str(error)
            failures.append(error)
    if not results:
        is_bad_input = all(isinstance(error, ModelError) for error in failures)
        raise (ModelError if is_bad_input else OperationError)("; ".join(skipped.values()))
    return results, skipped


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


def _described_fastest(best: Fastest) -> str:
    times = ", ".join(f"{name} {time_ms:.3g} ms" for name, time_ms in sorted(best.shortlist_ms.items(), key=lambda one: one[1]))
    return f"fastest here: {best.variant} on {best.backend} (side by side: {times})"


def _described(machine: BenchMachine, settings: BenchSettings) -> str:
    threads = f"threads {settings.threads or default_threads() or 'chosen by the backend'}"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"batch {settings.batch}, {threads}; {machine.cpu_model} ({machine.architecture}), {machine.cpu_cores} cores, "
        f"{machine.memory_mib} MiB; {versions}"
    )
