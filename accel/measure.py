"""What is measured of a variant on samples: the same words for a fresh conversion and for an evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from accel.backends.backend import Session
from accel.golden import BATCH_SIZE, compare_outputs, predicted_labels
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.stored_arrays import Gathered
from edgewright.contracts.variant import Measured
from edgewright.errors import SamplesError


def run_all(session: Session, samples: Samples) -> Tensors:
    """Run a session over all samples in batches; outputs in the order of the graph, on disk where there are many."""
    gathered: dict[str, Gathered] = {}
    for batch in samples.batches(BATCH_SIZE):
        for name, array in session.run(batch.inputs).items():
            gathered.setdefault(name, Gathered(samples.count)).append(array)
    return {name: parts.whole() for name, parts in gathered.items()}


def measured(expected: Tensors, found: Tensors, labels: npt.NDArray[np.int64] | None) -> Measured:
    """Compare outputs with the source model's and with the true labels.

    Raises:
        ParityError: the outputs cannot be compared, or hold NaN.
        SamplesError: a label is no class of the model.
    """
    compared = compare_outputs(expected, found)
    first = next(iter(found.values()))
    return Measured(
        sample_count=len(first),
        agreement=compared.agreement,
        max_relative_difference=compared.max_relative_difference,
        accuracy=None if labels is None else accuracy(first, labels),
    )


def accuracy(output: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return the share of samples whose predicted label is the true one; a single column is a probability of class 1."""
    scores = output.reshape(len(output), -1)
    classes = max(scores.shape[1], 2)
    if labels.min() < 0 or labels.max() >= classes:
        raise SamplesError(
            f"labels must be class indices from 0 to {classes - 1}, but they go from {labels.min()} to {labels.max()}"
        )
    return float(np.mean(predicted_labels(output) == labels))
