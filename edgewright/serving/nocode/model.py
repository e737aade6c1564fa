"""A loaded model of a framework, as the worker process sees it: its inputs, its methods, and the function that computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec

PREDICT = "predict"
TABLE = "data"
"""Name of the input of a model that takes one table of numbers, [rows, columns]."""

Predict = Callable[[Any], Tensors]
"""Takes a table (an array [rows, columns] or a data frame) or the input tensors by name; returns the outputs by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that can score."""

    framework: str
    version: str
    """Of the framework."""
    inputs: tuple[TensorSpec, ...]
    """One per tensor; of a table with named columns one per column; otherwise the table."""
    methods: Mapping[str, Predict]
    """By the name that a request chooses with `method`; the first one is the default."""
    outputs: tuple[TensorSpec, ...] = ()
    """Of the default method, where the framework states them before a run."""
    is_table: bool = False
    columns: tuple[str, ...] = ()
    """Names of the columns of the table, in the order of the model; empty if it has no names."""
    needs_frame: bool = False
    """True if the model takes a data frame with its column names."""
    rejections: tuple[type[Exception], ...] = field(default=(ValueError, TypeError))
    """Errors of a run that the values of the request cause."""

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """The outputs; of a model that states none, one per method with the most frequent type and shape."""
        return self.outputs or tuple(TensorSpec(name=name, dtype="float64", shape=("N",)) for name in self.methods)

    @property
    def width(self) -> int:
        """The number of columns of a table."""
        return len(self.columns) or int(self.inputs[0].shape[1])


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return a framework's result as an array that JSON and binary tensors can hold; text as objects."""
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array
