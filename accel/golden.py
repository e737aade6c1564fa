"""The golden check: run a loaded variant on its golden samples and compare with the golden outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.backends.backend import Session
from accel.comparison import BATCH_SIZE, Comparison, compare_outputs
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
    failure: str | None


def check_golden(session: Session, variant: VariantDirectory, golden: Path) -> GoldenResult:
    """Run the golden inputs in the directory `golden` and compare with its golden outputs.

    Raises:
        SamplesError: the golden files are missing, or do not fit this variant.
    """
    samples = load_samples(golden / LayerKind.GOLDEN_INPUTS.file_name, variant.config.inputs)
    expected = read_npz(golden / LayerKind.GOLDEN_OUTPUTS.file_name)
    try:
        parts = [session.run(batch.inputs) for batch in samples.batches(BATCH_SIZE)]
        actual = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        comparison = compare_outputs(expected, actual)
    except OperationError as error:
        return GoldenResult(sample_count=samples.count, max_relative_difference=None, agreement=None, failure=str(error))
    return GoldenResult(
        sample_count=samples.count,
        max_relative_difference=comparison.max_relative_difference,
        agreement=comparison.agreement,
        failure=violation(comparison, variant.config.tolerance),
    )


def violation(comparison: Comparison, tolerance: Tolerance) -> str | None:
    """Return the way in which `comparison` exceeds `tolerance`, or None if it does not."""
    if comparison.max_relative_difference > tolerance.max_relative_difference:
        return (
            f"outputs differ by {comparison.max_relative_difference:.3g} of their largest value; "
            f"at most {tolerance.max_relative_difference:.3g} is allowed"
        )
    if comparison.agreement < tolerance.min_agreement:
        return (
            f"{comparison.agreement:.1%} of the predicted labels are as expected; at least {tolerance.min_agreement:.1%} must be"
        )
    return None
