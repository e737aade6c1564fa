"""Sets of samples for the comparison: the main one, and small ones in other batch sizes and other sizes of the free axes.

A graph may equal its source only for the shape that was tried: a reshape with a size of the trace, a mean over the batch, a
padding for even lengths. Each small set has three samples and runs them in a batch of two and a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.samples import Samples
from edgewright.contracts.variant import TensorSpec

_COUNT = 3
_BATCH_SIZE = 2

Sizes = Mapping[str, int]
"""Sizes of free axes, by their names."""


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Samples, and the number of them that are run together."""

    samples: Samples
    batch_size: int
    resized: bool = False
    """The free axes have other sizes than in the main set, which the source need not accept."""

    def __str__(self) -> str:
        shapes = (f"{name}[{', '.join(map(str, array.shape[1:]))}]" for name, array in self.samples.inputs.items())
        return f"samples of {', '.join(shapes)} in batches of {self.batch_size}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Samples for the comparison, and the way to get them in other sizes of the free axes."""

    samples: Samples
    inputs: tuple[TensorSpec, ...]
    in_sizes: Callable[[Sizes], Samples]

    def sets(self, batch_size: int) -> list[SampleSet]:
        """Return the main set, run in batches of `batch_size`, and the small ones."""
        fixed = any(isinstance(spec.shape[0], int) for spec in self.inputs)
        small = batch_size if fixed else _BATCH_SIZE
        sets = [SampleSet(self.samples, batch_size)]
        if not fixed:
            sets.append(SampleSet(_first(self.samples), small))
        for sizes in other_sizes(free_sizes(self.inputs, self.samples)):
            sets.append(SampleSet(_first(self.in_sizes(sizes)), small, resized=True))
        return sets


def given_samples(samples: Samples, inputs: Sequence[TensorSpec]) -> Candidate:
    """Return the user's samples; in other sizes they are cut, or repeated, along the free axes."""
    return Candidate(samples, tuple(inputs), lambda sizes: _in_sizes(_first(samples), inputs, sizes))


def free_sizes(inputs: Sequence[TensorSpec], samples: Samples) -> Sizes:
    """Return the size of every free axis but the first in the samples, in the order of the inputs."""
    return {axis: samples.inputs[spec.name].shape[place] for spec in inputs for place, axis in _free_axes(spec)}


def other_sizes(sizes: Sizes) -> list[Sizes]:
    """Return an odd, the smallest, and larger sizes; the larger ones are equal and, for several axes, also unequal."""
    if not sizes:
        return []
    unequal = {axis: size + size // 2 + 8 * place for place, (axis, size) in enumerate(sizes.items())}
    larger = [{axis: size + size // 2 for axis, size in sizes.items()}, unequal]
    tried = [{axis: max(1, (size // 2 - 1) | 1) for axis, size in sizes.items()}, dict.fromkeys(sizes, 1), *larger]
    return [one for place, one in enumerate(tried) if one != sizes and one not in tried[:place]]


def _free_axes(spec: TensorSpec) -> Iterator[tuple[int, str]]:
    """Yield place and name of each free axis but the first; one that is named as the first one counts samples, too."""
    for place, axis in enumerate(spec.shape[1:], start=1):
        if isinstance(axis, str) and axis != spec.shape[0]:
            yield place, axis


def _first(samples: Samples) -> Samples:
    given = None if samples.given is None else {name: array[:_COUNT] for name, array in samples.given.items()}
    return replace(samples.slice(0, _COUNT), given=given)


def _in_sizes(samples: Samples, inputs: Sequence[TensorSpec], sizes: Sizes) -> Samples:
    return Samples({spec.name: _resized(samples.inputs[spec.name], spec, sizes) for spec in inputs})


def _resized(array: npt.NDArray[Any], spec: TensorSpec, sizes: Sizes) -> npt.NDArray[Any]:
    for place, axis in _free_axes(spec):
        array = array.take(np.arange(sizes[axis]) % array.shape[place], axis=place)
    return array
