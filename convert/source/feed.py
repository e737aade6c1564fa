"""Arrays for a source in its own layout: batches on the axis where the source has them, and constants beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.errors import ModelError

Arrays = list[npt.NDArray[Any]]

BATCH_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The inputs of all samples, in the order of the source's inputs.

    The first axis of an array counts the samples; `input_axes` and `output_axes` are where the source has that axis.
    """

    arrays: Arrays
    input_axes: tuple[int | None, ...] = ()
    """None: a constant, which every batch gets whole. Empty: all are 0."""
    output_axes: tuple[int, ...] = ()
    """Empty: all are 0."""
    batch_size: int = BATCH_SIZE

    @property
    def count(self) -> int:
        """The number of samples."""
        return next(len(array) for array, axis in zip(self.arrays, self._axes, strict=True) if axis is not None)

    def run(self, function: Callable[[Arrays], Sequence[Any]], *, fixed_batch: int | None = None) -> Arrays:
        """Call `function` with one batch at a time; return its outputs for all samples, with the samples on the first axis.

        Args:
            function: takes the inputs of a batch and returns its outputs, both in the layout of the source.
            fixed_batch: number of samples that the source takes; the last sample fills an incomplete batch.

        Raises:
            ModelError: an output does not count the samples.
        """
        size = fixed_batch or self.batch_size
        batches = [self._outputs(function, start, size, filled=bool(fixed_batch)) for start in range(0, self.count, size)]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def fixed_batch(self, shapes: Sequence[Sequence[Any]]) -> int | None:
        """Return the number of samples that inputs of these shapes take; None if it is dynamic."""
        sizes = [shape[axis] for shape, axis in zip(shapes, self._axes, strict=True) if axis is not None and axis < len(shape)]
        return max((size for size in sizes if isinstance(size, int)), default=None)

    @property
    def _axes(self) -> tuple[int | None, ...]:
        return self.input_axes or (0,) * len(self.arrays)

    def _outputs(self, function: Callable[[Arrays], Sequence[Any]], start: int, size: int, *, filled: bool) -> Arrays:
        count = min(size, self.count - start)
        places = np.minimum(np.arange(start, start + (size if filled else count)), self.count - 1)
        inputs = [
            array if axis is None else np.moveaxis(array[places], 0, axis)
            for array, axis in zip(self.arrays, self._axes, strict=True)
        ]
        outputs = [np.asarray(output) for output in function(inputs)]
        axes = self.output_axes or (0,) * len(outputs)
        return [_first(output, axis, len(places))[:count] for output, axis in zip(outputs, axes, strict=True)]


def _first(output: npt.NDArray[Any], axis: int, count: int) -> npt.NDArray[Any]:
    """Return an output with its batch axis first."""
    if output.ndim <= axis or output.shape[axis] != count:
        raise ModelError(
            f"axis {axis} of every output of the source must count the samples, but for {count} samples an output has the shape "
            f"{list(output.shape)}: name the axis that does with --batch-axis"
        )
    return np.moveaxis(output, axis, 0)


Runner = Callable[[Feed], Arrays]
"""Runs a loaded source on the inputs of all samples; returns its outputs with the samples on the first axis."""
