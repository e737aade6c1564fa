"""Compare outputs, and check a loaded variant against the golden samples that came with it.

One definition of "how far apart" for parity, evaluation and the check on a device (`Tolerance` in `contracts/variant.py`):

    max_relative_difference   largest |found - expected| over the largest |expected| of an output; the largest of all outputs
    agreement                 share of samples whose predicted label, of the first output, is the same

Outputs that are no floating-point numbers (class labels) have no distance: they count through the agreement.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.backends.backend import Session
from edgewright.contracts.samples import Tensors, load_samples, read_npz
from edgewright.contracts.stored_arrays import pieces
from edgewright.contracts.variant import LayerKind, Tolerance, VariantDirectory
from edgewright.errors import OperationError, ParityError

BATCH_SIZE = 32
_ROWS = 64
"""Samples that are compared at a time; outputs may be as large as images."""

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far outputs are from what was expected."""

    max_relative_difference: float
    agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenResult:
    """What the golden check found; `failure` is None when the variant does what it should."""

    sample_count: int
    max_relative_difference: float | None
    """None when the outputs could not be compared at all."""
    agreement: float | None
    failure: str | None


def check_golden(session: Session, variant: VariantDirectory, golden: Path) -> GoldenResult:
    """Run the golden inputs in the directory `golden` and compare with its golden outputs.

    Raises:
        SamplesError: the golden files are missing, or are not for this variant.
    """
    samples = load_samples(golden / LayerKind.GOLDEN_INPUTS.file_name, variant.config.inputs)
    expected = read_npz(golden / LayerKind.GOLDEN_OUTPUTS.file_name)
    try:
        parts = [session.run(batch.inputs) for batch in samples.batches(BATCH_SIZE)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        compared = compare_outputs(expected, found)
    except OperationError as failed:
        return GoldenResult(sample_count=samples.count, max_relative_difference=None, agreement=None, failure=str(failed))
    return GoldenResult(
        sample_count=samples.count,
        max_relative_difference=compared.max_relative_difference,
        agreement=compared.agreement,
        failure=outside(compared, variant.config.tolerance),
    )


def compare_outputs(expected: Tensors, found: Tensors) -> Comparison:
    """Measure how far `found` is from `expected`; `found` is in the order of the graph, as a session gives it.

    Raises:
        ParityError: an output is missing, has another shape, or holds NaN or infinity.
    """
    for name, array in found.items():
        _check_comparable(name, expected.get(name), array)
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ParityError(f"output {missing[0]} is missing; found {', '.join(found)}")
    first = next(iter(found))
    return Comparison(
        max_relative_difference=max(_relative_difference(expected[name], array) for name, array in found.items()),
        agreement=float(np.mean(predicted_labels(expected[first]) == predicted_labels(found[first]))),
    )


def predicted_labels(output: _Array) -> _Array:
    """Return one label per sample: the class where scores are highest, or the class itself where an output names it.

    A single column of scores is the probability of class 1: the label is whether it is over one half.
    """
    return np.concatenate([_labels(piece) for piece in pieces(output, _ROWS)]) if len(output) else _labels(output)


def _labels(output: _Array) -> _Array:
    flat = output.reshape(len(output), -1)
    if output.dtype.kind != "f":
        return flat[:, 0]
    labels: _Array = flat[:, 0] > 0.5 if flat.shape[1] == 1 else flat.argmax(axis=1)
    return labels


def outside(compared: Comparison, tolerance: Tolerance) -> str | None:
    """Return how `compared` exceeds `tolerance`, or None when it does not."""
    if compared.max_relative_difference > tolerance.max_relative_difference:
        return (
            f"outputs differ by {compared.max_relative_difference:.3g} of their largest value; "
            f"at most {tolerance.max_relative_difference:.3g} is allowed"
        )
    if compared.agreement < tolerance.min_agreement:
        return f"{compared.agreement:.1%} of the predicted labels are as expected; at least {tolerance.min_agreement:.1%} must be"
    return None


def _check_comparable(name: str, expected: _Array | None, found: _Array) -> None:
    if expected is None:
        raise ParityError(f"output {name} is not among the expected outputs")
    if expected.shape != found.shape:
        raise ParityError(f"output {name} must have shape {list(expected.shape)}, but it has {list(found.shape)}")
    for side, array in (("the expected output", expected), ("output", found)):
        if array.dtype.kind == "f" and not all(np.isfinite(piece).all() for piece in pieces(array, _ROWS)):
            raise ParityError(f"{side} {name} holds NaN or infinity")


def _relative_difference(expected: _Array, found: _Array) -> float:
    """Return the largest difference over the largest expected value; plain difference where all expected values are zero."""
    if expected.dtype.kind != "f" or expected.size == 0:
        return 0.0
    largest = difference = 0.0
    for wanted, given in zip(pieces(expected, _ROWS), pieces(found, _ROWS), strict=True):
        wide = wanted.astype(np.float64)
        largest = max(largest, float(np.abs(wide).max()))
        difference = max(difference, float(np.abs(given.astype(np.float64) - wide).max()))
    return difference / (largest or 1.0)
