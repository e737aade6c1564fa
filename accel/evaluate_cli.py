"""`edgewright evaluate`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from accel.backends.choose import AUTO, find_backends
from accel.evaluate import EVALUATION_COLUMNS, Evaluation, evaluate_variant, evaluation_row, reference_outputs
from accel.first_run import FirstRuns
from accel.sample_checks import check_numbers
from edgewright.command_line import common_options, print_json, print_table
from edgewright.contracts.build_directory import RECORD_FILE, BuildDirectory
from edgewright.contracts.names import nearest
from edgewright.contracts.package import opened, read_package, unpack_variant, verify_blobs
from edgewright.contracts.samples import Samples, Tensors, load_samples
from edgewright.contracts.variant import FLOAT_VARIANT, VariantDirectory
from edgewright.errors import ModelError, NotFoundError


@click.command()
@click.argument("source", metavar="BUILD|PACKAGE", type=click.Path(path_type=Path))
@click.option("--samples", required=True, type=click.Path(path_type=Path), help="Samples (.npz), with labels for accuracy.")
@click.option("--variant", "names", multiple=True, metavar="V", help="Only this variant; may be given several times.")
@click.option("--backend", metavar="B", help="Run with this backend (auto: the fastest here); default: each variant's own.")
@common_options
def command(source: Path, samples: Path, names: tuple[str, ...], backend: str | None, as_json: bool) -> None:
    """Measure accuracy, agreement and latency of variants.

    Agreement is the share of samples whose predicted label equals the source model's, for which the float variant stands.
    Variants that the backend does not run are skipped, each with a line on the error stream.
    """
    with variants_of(source) as variants:
        chosen = _chosen(variants, names, source)
        supported = _supported(chosen, backend, source)
        evaluations = _evaluate(variants, supported, samples, backend, source)
    for variant in chosen:
        if variant not in supported:
            click.echo(f"skipped {variant.config.variant}: {_unsupported(variant, str(backend))}", err=True)
    if as_json:
        print_json(evaluations)
    else:
        sizes = {variant.config.variant: variant.config.size_bytes for variant in variants}
        print_table(EVALUATION_COLUMNS, [evaluation_row(one, sizes[one.variant]) for one in evaluations])


@contextlib.contextmanager
def variants_of(source: Path) -> Iterator[Sequence[VariantDirectory]]:
    """Yield the variants of a build directory, or of a package after verifying all of its bytes."""
    if (source / RECORD_FILE).is_file():
        yield BuildDirectory.open(source).variants()
        return
    with opened(source) as layout, tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        package = read_package(layout)
        verify_blobs(layout, package)
        yield [unpack_variant(layout, each, Path(folder) / each.config.variant) for each in package.variants]


def _chosen(variants: Sequence[VariantDirectory], names: tuple[str, ...], source: Path) -> list[VariantDirectory]:
    by_name = {variant.config.variant: variant for variant in variants}
    for name in names:
        if name not in by_name:
            raise NotFoundError(f"{source} has no variant {name!r}{nearest(name, by_name)}")
    if names:
        return [by_name[name] for name in names]
    return sorted(variants, key=lambda variant: (variant.config.variant != FLOAT_VARIANT, variant.config.variant))


def _supported(chosen: Sequence[VariantDirectory], backend: str | None, source: Path) -> list[VariantDirectory]:
    """Return the variants that the named backend runs.

    Raises:
        NotFoundError: no backend has that name.
        ModelError: the backend runs none of the variants.
    """
    if backend is None or backend == AUTO:
        return list(chosen)
    (named,) = find_backends(backend)
    supported = [variant for variant in chosen if named.runs(variant.config)]
    if not supported:
        reasons = "; ".join(f"{variant.config.variant}: {_unsupported(variant, backend)}" for variant in chosen)
        raise ModelError(f"{source} must hold a variant that {backend} runs, but it holds none ({reasons}); use --backend {AUTO}")
    return supported


def _unsupported(variant: VariantDirectory, backend: str) -> str:
    return f"{backend} does not run {variant.config.precision} for {variant.config.backend}"


def _evaluate(
    variants: Sequence[VariantDirectory], chosen: Sequence[VariantDirectory], path: Path, backend: str | None, source: Path
) -> list[Evaluation]:
    float_variant = next((variant for variant in variants if variant.config.variant == FLOAT_VARIANT), None)
    if float_variant is None:
        raise NotFoundError(f"{source} must hold the variant {FLOAT_VARIANT}, which stands for the source model; it is not there")
    config = float_variant.config
    samples = load_samples(path, config.inputs, config.labels, config.class_values)
    with FirstRuns() as first_runs:
        first_runs.check_variant(float_variant)
        for variant in chosen:
            first_runs.check_variant(variant, backend=backend)
    own, reference = _score_float(float_variant, chosen, samples, backend)
    check_numbers(samples, reference, path)
    return [
        own if own is not None and variant == float_variant else evaluate_variant(variant, samples, reference, backend=backend)[0]
        for variant in chosen
    ]


def _score_float(
    variant: VariantDirectory, chosen: Sequence[VariantDirectory], samples: Samples, backend: str | None
) -> tuple[Evaluation | None, Tensors]:
    """Return the reference outputs, with the float variant's evaluation if it is chosen on its own backend: one pass for both."""
    if variant in chosen and backend in (None, variant.config.backend):
        return evaluate_variant(variant, samples)
    return None, reference_outputs(variant, samples)
