"""Verify that a converted graph computes what its source computes: run both on the same samples, compare every output.

The source runs in its own framework, in a separate process (run_source.py).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accel.comparison import Comparison
from accel.differences import OutputComparison
from convert.source.identify import SourceKind
from convert.source.layout import PLAIN, SourceLayout
from convert.source.options import DEFAULT_OPTIONS, RunRequest, SourceOptions, SourceRequest
from convert.source.resource_limits import Limits, run_limited
from convert.source.sample_sets import SampleSet
from edgewright.contracts import wire
from edgewright.contracts.samples import Tensors, read_npz, write_npz
from edgewright.contracts.variant import Measure, Measured, Tolerance
from edgewright.errors import EdgewrightError, ParityError

log = logging.getLogger(__name__)

TABLE_KINDS = (SourceKind.SKLEARN, SourceKind.PICKLE, SourceKind.LIGHTGBM, SourceKind.XGBOOST, SourceKind.CATBOOST)
"""Sources that take one table of numbers in float64, and either classify or regress."""

FLOAT_TOLERANCE = 1e-4
"""Largest relative difference of a float32 graph from its source."""
_FEW_SAMPLES = 10
"""Factor of the tolerance for sets of three samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """Difference of one output from the source's; the worst sample has the largest absolute difference."""

    name: str
    measure: str
    max_absolute_difference: float
    max_relative_difference: float
    worst_sample: int
    agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Contents of `reports/parity.json`."""

    sample_count: int
    generated_samples: bool
    tolerance: float
    passed: bool
    agreement: float | None
    accuracy: float | None
    outputs: tuple[OutputDifference, ...]
    other_shapes: tuple[str, ...] = ()
    """Small sets of samples that were compared, too, in other batch sizes and sizes of the free axes."""


def run_source(
    kind: SourceKind,
    source: Path,
    sets: Sequence[SampleSet],
    outputs: Sequence[str],
    *,
    layout: SourceLayout = PLAIN,
    options: SourceOptions = DEFAULT_OPTIONS,
    limits: Limits | None = None,
) -> list[Tensors | None]:
    """Return the source model's outputs for each set of samples, by the names of the graph's outputs, samples first.

    Models of tables get the samples as they were given; a network casts them to the dtype of its inputs in any case. A set after
    the first has None if the source cannot run it.

    Raises:
        ModelError: the framework cannot load or run the model.
        OperationError: the framework's process crashed, or reached a limit and was stopped.
        ParityError: source and graph have different numbers of outputs.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
        folder = Path(name)
        for number, one in enumerate(sets):
            inputs = one.samples.given if kind in TABLE_KINDS and one.samples.given else one.samples.inputs
            arrays = {f"input_{index}": array for index, array in enumerate(layout.arrays(inputs))}
            write_npz(folder / f"inputs-{number}.npz", arrays)
        request = RunRequest(
            source=SourceRequest.of(kind, source, options),
            folder=name,
            batch_sizes=tuple(one.batch_size for one in sets),
            input_axes=layout.input_axes(sets[0].samples.inputs),
            output_axes=layout.output_axes(outputs),
            shapes=dict(layout.shapes),
        )
        limits = limits or Limits.of_this_machine()
        try:
            run_limited("convert.run_source", wire.encode(request), limits, source, doing="running it in its own framework")
        except EdgewrightError as error:
            if not (folder / "outputs-0.npz").is_file():
                raise
            log.info("the source ended early reason=%r", str(error))
        return [_read_outputs(folder / f"outputs-{number}.npz", source, outputs) for number in range(len(sets))]


def _read_outputs(path: Path, source: Path, outputs: Sequence[str]) -> Tensors | None:
    if not path.is_file():
        return None
    arrays = read_npz(path)
    if len(arrays) != len(outputs):
        raise ParityError(f"{source} has {len(arrays)} outputs, but its graph has {len(outputs)}: {', '.join(outputs)}")
    return {name: arrays[f"output_{index}"] for index, name in enumerate(outputs)}


def report_on(comparison: Comparison, result: Measured, *, tolerance: float = FLOAT_TOLERANCE, generated: bool) -> ParityReport:
    """Return the report of a comparison; `generated` records that the samples were not the user's."""
    return ParityReport(
        sample_count=result.sample_count,
        generated_samples=generated,
        tolerance=tolerance,
        passed=comparison.max_relative_difference <= tolerance,
        agreement=comparison.agreement,
        accuracy=result.accuracy,
        outputs=tuple(_difference(output) for output in comparison.outputs),
    )


def in_another_shape(report: ParityReport, comparison: Comparison) -> ParityReport:
    """Return the report of a small set of samples; with few of them, rounding is a larger part of the largest value."""
    return replace(
        report,
        tolerance=_FEW_SAMPLES * report.tolerance,
        passed=comparison.max_relative_difference <= _FEW_SAMPLES * report.tolerance,
        outputs=tuple(_difference(output) for output in comparison.outputs),
    )


def check(report: ParityReport, source: Path, cause: str = "", *, where: str = "") -> None:
    """Check that the graph is within the tolerance; `cause` and the shapes in `where` are added to the message.

    Raises:
        ParityError: it is not; the message names the worst output and sample.
    """
    if report.passed:
        return
    advice = "compare on real samples with --samples" if report.generated_samples else "report this model"
    worst = max(report.outputs, key=lambda output: output.max_relative_difference)
    extent = f"by {worst.max_relative_difference:.3g} at sample {worst.worst_sample}"
    if worst.measure == Measure.EXACT and worst.agreement is not None:
        extent = f"in {1 - worst.agreement:.3%} of its elements, the first in sample {worst.worst_sample}"
    raise ParityError(
        f"{source}: the converted graph must be within {report.tolerance:g} of the source, but output {worst.name} "
        f"differs {extent}{where}: {cause or advice}, or accept it with --allow-mismatch"
    )


def float_tolerance(accuracy: Measured) -> Tolerance:
    """Return the tolerance of float variants; it is wider only where the user accepted a mismatch."""
    return Tolerance(
        max_relative_difference=max(FLOAT_TOLERANCE, 2 * accuracy.max_relative_difference),
        min_agreement=_least_agreement(accuracy.agreement),
    )


def _least_agreement(agreement: float | None) -> float:
    if agreement is None:
        return 0.0
    return 1.0 if agreement == 1.0 else max(0.0, agreement - 0.1)


def _difference(output: OutputComparison) -> OutputDifference:
    return OutputDifference(
        name=output.name,
        measure=output.measure.value,
        max_absolute_difference=output.max_absolute_difference,
        max_relative_difference=output.max_relative_difference,
        worst_sample=output.worst_sample,
        agreement=output.agreement,
    )
