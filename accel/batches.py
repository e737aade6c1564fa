"""Graphs with a fixed batch size: run any number of samples in pieces of that size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import OperationError


class SampleAxisError(OperationError):
    """An output whose first axis does not count the samples."""

    def __init__(self, name: str, shape: tuple[int, ...], count: int) -> None:
        super().__init__(f"the first axis of output {name} must count the samples, but its shape for {count} is {list(shape)}")
        self.name, self.shape, self.count = name, shape, count


def fixed_batch(inputs: Sequence[TensorSpec]) -> int | None:
    """Return the batch size that the graph requires, or None if its first axis is dynamic."""
    sizes = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    return max(sizes) if sizes else None


def run_in_pieces(run: Callable[[Tensors], Tensors], inputs: Tensors, size: int) -> Tensors:
    """Call `run` with exactly `size` samples at a time and concatenate the outputs.

    Raises:
        SampleAxisError: the first axis of an output is not the batch.
    """
    count = len(next(iter(inputs.values())))
    pieces = []
    for start in range(0, count, size):
        piece = {name: array[start : start + size] for name, array in inputs.items()}
        filled = min(size, count - start)
        outputs = run({name: _padded(array, size) for name, array in piece.items()})
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != size:
                raise SampleAxisError(name, array.shape, size)
        pieces.append({name: array[:filled] for name, array in outputs.items()})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _padded(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Repeat the last sample up to `size` samples: the graph requires a full batch."""
    missing = size - len(array)
    return array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
