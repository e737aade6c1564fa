"""`edgewright profile`: recommend processor time and memory for a service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgewright.command_line import ModelPath, common_options, duration, print_json, print_table
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError
from edgewright.profiling.limits import Method, method_of_this_machine
from edgewright.profiling.page import page
from edgewright.profiling.profile import Profile, Report, Settings
from edgewright.profiling.samples import read_samples
from edgewright.profiling.search import Objective
from edgewright.profiling.service import ServiceOptions
from edgewright.serving.nocode.identify import model_in
from edgewright.serving.served import Served
from hardware_profiles.detect import read_machine
from hardware_profiles.processors import usable_processors


@click.command()
@click.argument("target", metavar="SCRIPT|MODEL|BUILD|PACKAGE", type=ModelPath("package"))
@click.option("--samples", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True, help="Requests to send.")
@click.option("--rate", type=click.FloatRange(0.1, 100_000), required=True, help="Requests per second to hold.")
@click.option("--p50", type=duration, help="Longest median latency, as in 20ms.")
@click.option("--p95", type=duration, help="Longest latency of 95 of 100 requests, as in 50ms.")
@click.option("--p99", type=duration, help="Longest latency of 99 of 100 requests.")
@click.option("--cpu", "cpus", multiple=True, type=click.FloatRange(min=0.01), help="Try this size only; repeatable.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=5.0, show_default=True, help="Time of each measurement.")
@click.option("--limits", type=click.Choice([each.value for each in Method]), help="How a size is enforced; default: what works.")
@click.option("--model-dir", type=ModelPath("files"), help="Folder of the script's models (AZUREML_MODEL_DIR), or models:NAME.")
@click.option("--variant", help="Profile this variant; default: the one that fits this machine best.")
@click.option("--backend", help="Run the variant with this backend.")
@click.option("--trust", is_flag=True, help="Open a pickle or a layer with code: you made the model, or trust its author.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The page (default: NAME-profile.html).")
@common_options
@click.pass_context
def command(
    context: click.Context,
    /,
    target: Path,
    samples: Path,
    rate: float,
    p50: float | None,
    p95: float | None,
    p99: float | None,
    cpus: tuple[float, ...],
    seconds: float,
    limits: str | None,
    output: Path | None,
    as_json: bool,
    **service: Any,
) -> None:
    """Recommend CPU, memory and workers for a rate and a latency.

    The real service runs under limits of several sizes, and clients send the samples at the rate. The smallest size that holds
    the latency is confirmed, and measured at other rates. The page has the curves; a JSON file beside it has every measurement,
    and lets an interrupted profile continue.
    """
    objective = _objective(rate, {50: p50, 95: p95, 99: p99})
    method = Method(limits) if limits else method_of_this_machine()
    options = _service(model_in(target), **service)
    sizes = _checked_sizes(cpus, method)
    bodies = read_samples(samples)
    path = output or Path(f"{_name(options.path)}-profile.html")
    settings = Settings(
        target=_name(options.path),
        objective=objective,
        seconds=seconds,
        cpus=sizes,
        options=options.options,
        parallel="workers" if options.runs_in_workers else "threads",
        method=method,
    )
    profile = Profile(
        settings,
        options,
        bodies,
        machine=_machine(),
        file=path.with_suffix(".json"),
        progress=lambda text: click.echo(text, err=True) if sys.stderr.isatty() else None,
    )
    report = profile.run()
    write_atomically(path, page(report).encode())
    if as_json:
        print_json(report)
    else:
        _print(report, path)
    context.exit(0 if report.recommendation else 1)


def _objective(rate: float, latencies_s: dict[int, float | None]) -> Objective:
    given = {percentile: latency_s for percentile, latency_s in latencies_s.items() if latency_s is not None}
    if len(given) != 1:
        raise BadInputError(f"a profile must have one of --p50, --p95 and --p99, as in --p95 50ms, but {len(given)} were given")
    ((percentile, latency_s),) = given.items()
    return Objective(rate=rate, latency_ms=latency_s * 1e3, percentile=percentile)


def _service(path: Path, *, model_dir: Path | None, variant: str | None, backend: str | None, trust: bool) -> ServiceOptions:
    """Return the service; a file that is certainly no script or model is refused before anything is measured."""
    served = Served(path=path, variant=variant, backend=backend or "auto", trust=trust, model_dir=model_dir)
    served.check()
    given = {"--model-dir": model_dir, "--variant": variant, "--backend": backend}
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    return ServiceOptions(path=path, runs_in_workers=served.runs_in_workers, options=(*words, *(["--trust"] if trust else [])))


def _checked_sizes(cpus: tuple[float, ...], method: Method) -> tuple[float, ...]:
    """Return the sizes, ascending."""
    processors = usable_processors()
    for cpu in cpus:
        if cpu > processors:
            raise BadInputError(f"--cpu must be at most {processors}, the processors that this machine gives, not {cpu:g}")
        if method is Method.AFFINITY and cpu != int(cpu):
            raise BadInputError(
                f"--cpu must be whole here, not {cpu:g}: control groups cannot be written, and affinity gives whole processors"
            )
    return tuple(sorted(set(cpus)))


def _name(path: Path) -> str:
    return path.name.partition(".")[0] or path.resolve().name


def _machine() -> str:
    machine = read_machine()
    return f"{machine.cpu_model or machine.architecture}, {usable_processors()} processors"


def _print(report: Report, path: Path) -> None:
    objective, found = report.settings.objective, report.recommendation
    aim = f"{objective.rate:g} requests/s with p{objective.percentile} <= {objective.latency_ms:g} ms"
    if found is None:
        best = (
            f"the largest holds {report.best_rate:g} requests/s" if report.best_rate else "the largest holds none of those tried"
        )
        click.echo(f"no size of this machine holds {aim}: {best}; {path}")
        return
    rows: list[tuple[str, object]] = [
        ("asked for", aim),
        ("cpu", f"{found.cpu:g}"),
        ("memory", f"{found.memory_in_gb:g} GB ({found.memory_used_bytes / 1e6:.0f} MB used)"),
        (report.settings.parallel, found.processes),
        (f"p{objective.percentile}", f"{found.latency_ms:.2f} ms"),
    ]
    if found.is_half_held is not None:
        rows.append(("at half the cpu", "holds too" if found.is_half_held else "does not hold"))
    if found.knee is not None:
        rows.append(("highest rate held", f"{found.knee:g} requests/s"))
    print_table(("what", "value"), [*rows, ("page", path)])
