"""The source's own inputs and outputs, where they differ from those of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.samples import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLayout:
    """Constants, batch axes and shapes that the user named."""

    inputs: tuple[str, ...] = ()
    """The source's inputs in its own order; empty: those of the graph."""
    constants: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Inputs that are constants in the graph."""
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    """Batch axis of inputs and outputs in the source, by name, where it was named or found; the others have it first."""
    shapes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Shapes that replace fixed ones of the source, by input."""

    def arrays(self, inputs: Tensors) -> list[npt.NDArray[Any]]:
        """Return the samples' inputs, and the constants between them, in the order of the source."""
        return [np.asarray(self.constants[name]) if name in self.constants else inputs[name] for name in self.inputs or inputs]

    def input_axes(self, inputs: Tensors) -> tuple[int | None, ...]:
        """Return the batch axis of each input in the source; None for a constant."""
        return tuple(None if name in self.constants else self.batch_axes.get(name, 0) for name in self.inputs or inputs)

    def output_axes(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the batch axis of each output in the source."""
        return tuple(self.batch_axes.get(name, 0) for name in names)


PLAIN = SourceLayout()
"""The layout of a source whose inputs and outputs are those of the graph."""
