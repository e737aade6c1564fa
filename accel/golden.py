"""The golden check: run a loaded variant on its golden samples and compare with the golden outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accel.backends.backend import Session
from accel.comparison import BATCH_SIZE, Comparison, compare_outputs, run_all
from edgewright.contracts.samples import load_samples, read_npz
from edgewright.contracts.variant import LayerKind, Tolerance, VariantDirectory
from edgewright.errors import OperationError


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenResult:
    """The result of the golden check, without a `failure` if the outputs are within the tolerance."""

    sample_count: int
    max_relative_difference: float | None
    """None if the outputs cannot be compared."""
    agreement: float | None
    """None if the outputs cannot be compared, or predict no classes."""
    failure: str | None


def check_golden(session: Session, variant: VariantDirectory, golden: Path) -> GoldenResult:
    """Run the golden inputs in the directory `golden` and compare with its golden outputs.

    Raises:
        SamplesError: the golden files are missing, or do not fit this variant.
    """
    samples = load_samples(golden / LayerKind.GOLDEN_INPUTS.file_name, variant.config.inputs)
    expected = read_npz(golden / LayerKind.GOLDEN_OUTPUTS.file_name)
    try:
        actual = run_all(session, samples, batch_size=BATCH_SIZE if variant.config.independent_samples else 1)
        comparison = compare_outputs(expected, actual, variant.config.outputs)
    except OperationError as error:
        return GoldenResult(sample_count=samples.count, max_relative_difference=None, agreement=None, failure=str(error))
    return GoldenResult(
        sample_count=samples.count,
        max_relative_difference=comparison.max_relative_difference,
        agreement=comparison.agreement,
        failure=violation(comparison, variant.config.tolerance),
    )


TIES = 1e-3
"""Share of decisions that may differ anyway: among thousands of pixels some classes have nearly equal scores."""


def violation(comparison: Comparison, tolerance: Tolerance) -> str | None:
    """Return a description of how `comparison` exceeds `tolerance`, or None if it does not."""
    if comparison.max_relative_difference > tolerance.max_relative_difference:
        return (
            f"outputs differ by {comparison.max_relative_difference:.3g} of their largest value{_worst(comparison)}; "
            f"at most {tolerance.max_relative_difference:.3g} is allowed"
        )
    if comparison.agreement is not None and comparison.agreement < tolerance.min_agreement - TIES:
        return (
            f"{comparison.agreement:.1%} of the predicted labels are as expected; at least {tolerance.min_agreement:.1%} must be"
        )
    if comparison.constant:
        return f"output {comparison.constant[0]} is the same for all samples, but the source's is not"
    return None


def _worst(comparison: Comparison) -> str:
    """Return the name of the output that differs most; nothing where there is only one."""
    if len(comparison.outputs) < 2:
        return ""
    worst = max(comparison.outputs, key=lambda output: output.max_relative_difference)
    return f" in output {worst.name}"
