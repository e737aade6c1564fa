"""Verify that a converted graph computes what its source computes: run both on the same samples, compare every output.

The source runs in its own framework, in a separate process (run_source.py).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.comparison import BATCH_SIZE, Comparison
from accel.differences import OutputComparison
from convert.source.identify import SourceKind
from convert.source.options import DEFAULT_OPTIONS, SourceOptions
from convert.source.resource_limits import Limits, run_limited
from edgewright.contracts.samples import Samples, Tensors, read_npz, write_npz
from edgewright.contracts.variant import Measure, Measured, Tolerance
from edgewright.errors import ParityError

TABLE_KINDS = (SourceKind.SKLEARN, SourceKind.PICKLE, SourceKind.LIGHTGBM, SourceKind.XGBOOST)
"""Sources that take one table of numbers in float64, and either classify or regress."""

FLOAT_TOLERANCE = 1e-4
"""Largest relative difference of a float32 graph from its source."""


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


def run_source(
    kind: SourceKind,
    source: Path,
    samples: Samples,
    outputs: Sequence[str],
    options: SourceOptions = DEFAULT_OPTIONS,
    limits: Limits | None = None,
    *,
    batch_size: int = BATCH_SIZE,
) -> Tensors:
    """Return the source model's outputs, by the names of the graph's outputs.

    Models of tables get the samples as they were given; a network casts them to the dtype of its inputs in any case.

    Raises:
        ModelError: the framework cannot load or run the model.
        OperationError: the framework's process crashed, or reached a limit and was stopped.
        ParityError: source and graph have different numbers of outputs.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        inputs_path, outputs_path = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        inputs = samples.given if kind in TABLE_KINDS and samples.given else samples.inputs
        write_npz(inputs_path, {f"input_{index}": array for index, array in enumerate(inputs.values())})
        files = [str(source.resolve()), str(inputs_path), str(outputs_path)]
        command = [
            sys.executable,
            "-m",
            "convert.run_source",
            kind.value,
            *files,
            "--batch-size",
            str(batch_size),
            *options.arguments,
        ]
        run_limited(command, limits or Limits.of_this_machine(), source, doing="running it in its own framework")
        arrays = read_npz(outputs_path)
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


def check(report: ParityReport, source: Path, cause: str = "") -> None:
    """Check that the graph is within the tolerance; `cause` is added to the message.

    Raises:
        ParityError: it is not; the message names the worst output and sample.
    """
    if report.passed:
        return
    advice = "compare on real samples with --samples" if report.generated_samples else "report this model"
    worst = max(report.outputs, key=lambda output: output.max_relative_difference)
    extent = f"by {worst.max_relative_difference:.3g} at sample {worst.worst_sample}"
    if worst.measure == Measure.EXACT:
        extent = f"in {worst.max_relative_difference:.3%} of its elements, the first in sample {worst.worst_sample}"
    raise ParityError(
        f"{source}: the converted graph must be within {report.tolerance:g} of the source, but output {worst.name} "
        f"differs {extent}: {cause or advice}, or accept it with --allow-mismatch"
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
