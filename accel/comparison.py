"""Compare outputs with those of the source model and with true labels.

One definition of distance for conversion, evaluation and the golden check (`Tolerance` in `contracts/variant.py`):

    max_relative_difference   largest |actual - expected| over the largest |expected| of an output; the largest of all outputs
    agreement                 share of samples whose predicted label, of the first output, is the same

Outputs other than floating-point numbers (class labels) have no distance: they count through the agreement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.backends.backend import Session
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.stored_arrays import Gathered, pieces
from edgewright.contracts.variant import Measured
from edgewright.errors import ParityError, SamplesError

BATCH_SIZE = 32
_ROWS = 64
"""Samples that are compared at a time; outputs may be as large as images."""

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The distance of outputs from the expected ones."""

    max_relative_difference: float
    agreement: float


def run_all(session: Session, samples: Samples) -> Tensors:
    """Run a session over all samples in batches; return the outputs in the order of the graph, on disk if they are large."""
    gathered: dict[str, Gathered] = {}
    for batch in samples.batches(BATCH_SIZE):
        for name, array in session.run(batch.inputs).items():
            gathered.setdefault(name, Gathered(samples.count)).append(array)
    return {name: parts.whole() for name, parts in gathered.items()}


def measure_outputs(expected: Tensors, actual: Tensors, labels: npt.NDArray[np.int64] | None) -> Measured:
    """Compare outputs with the source model's and with the true labels; `labels` None leaves the accuracy out.

    Raises:
        ParityError: the outputs cannot be compared, or hold NaN.
        SamplesError: a label is not a class of the model.
    """
    comparison = compare_outputs(expected, actual)
    first = next(iter(actual.values()))
    return Measured(
        sample_count=len(first),
        agreement=comparison.agreement,
        max_relative_difference=comparison.max_relative_difference,
        accuracy=None if labels is None else accuracy(first, labels),
    )


def compare_outputs(expected: Tensors, actual: Tensors) -> Comparison:
    """Measure the distance of `actual` from `expected`; `actual` is in the order of the graph, as sessions return it.

    Raises:
        ParityError: an output is missing, has another shape, or holds NaN or infinity.
    """
    for name, array in actual.items():
        _check_comparable(name, expected.get(name), array)
    missing = sorted(set(expected) - set(actual))
    if missing:
        raise ParityError(f"output {missing[0]} is missing; found {', '.join(actual)}")
    first = next(iter(actual))
    return Comparison(
        max_relative_difference=max(_relative_difference(expected[name], array) for name, array in actual.items()),
        agreement=float(np.mean(predicted_labels(expected[first]) == predicted_labels(actual[first]))),
    )


def accuracy(output: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return the share of samples whose predicted label is the true one; a single column is the probability of class 1.

    Raises:
        SamplesError: a label is not a class of the model.
    """
    scores = output.reshape(len(output), -1)
    classes = max(scores.shape[1], 2)
    if labels.min() < 0 or labels.max() >= classes:
        raise SamplesError(
            f"labels must be class indices from 0 to {classes - 1}, but they range from {labels.min()} to {labels.max()}"
        )
    return float(np.mean(predicted_labels(output) == labels))


def predicted_labels(output: _Array) -> _Array:
    """Return one label per sample: the class with the highest score, or the class itself where an output holds labels.

    A single column of scores is the probability of class 1; its label is 1 above one half.
    """
    return np.concatenate([_labels(piece) for piece in pieces(output, _ROWS)]) if len(output) else _labels(output)


def _labels(output: _Array) -> _Array:
    flat = output.reshape(len(output), -1)
    if output.dtype.kind != "f":
        return flat[:, 0]
    labels: _Array = flat[:, 0] > 0.5 if flat.shape[1] == 1 else flat.argmax(axis=1)
    return labels


def _check_comparable(name: str, expected: _Array | None, actual: _Array) -> None:
    if expected is None:
        raise ParityError(f"output {name} is not among the expected outputs")
    if expected.shape != actual.shape:
        raise ParityError(f"output {name} must have shape {list(expected.shape)}, but it has {list(actual.shape)}")
    for side, array in (("the expected output", expected), ("output", actual)):
        if array.dtype.kind == "f" and not all(np.isfinite(piece).all() for piece in pieces(array, _ROWS)):
            raise ParityError(f"{side} {name} holds NaN or infinity")


def _relative_difference(expected: _Array, actual: _Array) -> float:
    """Return the largest difference over the largest expected value; the absolute one where all expected values are zero."""
    if expected.dtype.kind != "f" or expected.size == 0:
        return 0.0
    largest = difference = 0.0
    for expected_rows, actual_rows in zip(pieces(expected, _ROWS), pieces(actual, _ROWS), strict=True):
        exact = expected_rows.astype(np.float64)
        largest = max(largest, float(np.abs(exact).max()))
        difference = max(difference, float(np.abs(actual_rows.astype(np.float64) - exact).max()))
    return difference / (largest or 1.0)
