"""Weights that are computed when they are written or folded, not when the graph is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


class LazyWeight(ir.LazyTensor):  # type: ignore[misc]  # the library's types are not read (see pyproject)
    """A float32 tensor whose contents a function computes at each access."""

    def __init__(self, name: str, shape: tuple[int, ...], load: Callable[[], npt.NDArray[Any]]) -> None:
        def evaluate() -> ir.Tensor:
            return ir.Tensor(np.ascontiguousarray(load(), np.float32).reshape(shape), name=name)

        super().__init__(evaluate, ir.DataType.FLOAT, ir.Shape(shape), name=name)
        self._load = load

    def view(self) -> npt.NDArray[Any]:
        """Return the contents in this tensor's order without a copy, possibly with a different shape."""
        return self._load()
