"""Find out whether the outputs of a sample depend on the other samples of its batch.

They do in a graph that computes ranges or statistics over the batch (dynamic quantization, normalization by batch). Such samples
are run one at a time, and the scoring server merges no requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.backends.backend import Session
from accel.comparison import compare_outputs
from edgewright.contracts.samples import Samples, Tensors
from edgewright.errors import OperationError, ParityError

COUNT = 4
"""Samples that are run alone and then beside as many others."""
_FACTOR = 10.0
"""Values of the other samples in the batch, as a multiple of real ones: a range over the batch then changes in any case."""
_SAME = 1e-3
"""Largest relative difference between a sample alone and in a batch, for which other kernels may run."""


def samples_are_independent(session: Session, samples: Samples) -> bool:
    """Return True if the first samples have the same outputs alone and beside other samples."""
    first = samples.slice(0, COUNT)
    alone = [session.run(first.slice(place, place + 1).inputs) for place in range(first.count)]
    if any(array.ndim == 0 or len(array) != 1 for outputs in alone for array in outputs.values()):
        return False
    try:
        together = session.run(_beside_others(first.inputs))
        compared = compare_outputs(_joined(alone), {name: array[: first.count] for name, array in together.items()})
    except (OperationError, ParityError):
        return False
    counted = all(len(array) == 2 * first.count for array in together.values())
    return counted and compared.max_relative_difference <= _SAME


def _joined(outputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> Tensors:
    return {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}


def _beside_others(inputs: Tensors) -> Tensors:
    """Return the samples, followed by as many others."""
    return {name: np.concatenate([array, _others(array)]) for name, array in inputs.items()}


def _others(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    backwards = array[::-1]
    return (backwards * _FACTOR).astype(array.dtype) if array.dtype.kind == "f" else backwards
