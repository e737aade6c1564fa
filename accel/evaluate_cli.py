"""`edgewright evaluate`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from accel.evaluate import EVALUATION_COLUMNS, Evaluation, evaluate_variant, evaluation_row, reference_outputs
from edgewright.command_line import common_options, print_json, print_table
from edgewright.contracts.build_directory import RECORD_FILE, BuildDirectory
from edgewright.contracts.names import nearest
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import PackagedVariant, opened, read_package, verify_blobs
from edgewright.contracts.samples import load_samples
from edgewright.contracts.variant import FLOAT_VARIANT, VariantDirectory
from edgewright.errors import NotFoundError


@click.command()
@click.argument("source", metavar="BUILD|PACKAGE", type=click.Path(path_type=Path))
@click.option("--samples", required=True, type=click.Path(path_type=Path), help="Samples (.npz), with labels for accuracy.")
@click.option("--variant", "wanted", multiple=True, metavar="V", help="Only this variant; may be given several times.")
@click.option("--backend", metavar="B", help="Run with this backend (auto: the fastest here); default: each variant's own.")
@common_options
def command(source: Path, samples: Path, wanted: tuple[str, ...], backend: str | None, as_json: bool) -> None:
    """Measure accuracy, agreement and latency of variants.

    Agreement is the share of samples whose predicted label equals the source model's, for which the float variant stands.
    """
    with variants_of(source) as variants:
        chosen = _chosen(variants, wanted, source)
        evaluations = _evaluate(variants, chosen, samples, backend, source)
    if as_json:
        print_json(evaluations)
    else:
        sizes = {variant.config.variant: variant.config.size_bytes for variant in variants}
        print_table(EVALUATION_COLUMNS, [evaluation_row(one, sizes[one.variant]) for one in evaluations])


@contextlib.contextmanager
def variants_of(source: Path) -> Iterator[Sequence[VariantDirectory]]:
    """Give the variants of a build directory, or of a package whose every byte was checked first."""
    if (source / RECORD_FILE).is_file():
        yield BuildDirectory.open(source).variants()
        return
    with opened(source) as layout, tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        package = read_package(layout)
        verify_blobs(layout, package)
        yield [_unpacked(layout, variant, Path(folder)) for variant in package.variants]


def _unpacked(layout: OciLayout, variant: PackagedVariant, folder: Path) -> VariantDirectory:
    target = folder / variant.config.variant
    target.mkdir()
    for kind, descriptor in variant.layers.items():
        _link(layout.blob_path(descriptor.digest), target / kind.file_name)
    return VariantDirectory.write(target, variant.config)


def _link(blob: Path, target: Path) -> None:
    try:
        os.link(blob, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(blob, target)


def _chosen(variants: Sequence[VariantDirectory], wanted: tuple[str, ...], source: Path) -> list[VariantDirectory]:
    known = {variant.config.variant: variant for variant in variants}
    for name in wanted:
        if name not in known:
            raise NotFoundError(f"{source} has no variant {name!r}{nearest(name, known)}")
    if wanted:
        return [known[name] for name in wanted]
    return sorted(variants, key=lambda variant: (variant.config.variant != FLOAT_VARIANT, variant.config.variant))


def _evaluate(
    variants: Sequence[VariantDirectory], chosen: Sequence[VariantDirectory], samples: Path, backend: str | None, source: Path
) -> list[Evaluation]:
    float_variant = next((variant for variant in variants if variant.config.variant == FLOAT_VARIANT), None)
    if float_variant is None:
        raise NotFoundError(f"{source} must hold the variant {FLOAT_VARIANT}, which stands for the source model; it is not there")
    loaded = load_samples(samples, float_variant.config.inputs)
    reference = reference_outputs(float_variant, loaded)
    return [evaluate_variant(variant, loaded, reference, backend=backend) for variant in chosen]
