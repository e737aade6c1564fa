"""One call of one Keras layer, as the rules see it: the layer, its inputs, and a place to emit nodes at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_keras.layouts import Layout, Layouts, Tensor, constant_in_order_of
from convert.graph.emit import Emitter, Shape
from edgewright.errors import ModelError

Numbers = npt.NDArray[np.float32]


class UnsupportedLayerError(ModelError):
    """A layer, or a setting of one, that no rule covers; what runs the layer itself can still trace it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A layer applied to tensors."""

    layer: Any
    path: str
    """The layer's name below its model: `backbone/conv1`."""
    position: str
    """Where the user finds it: `layer 4 of 12`."""
    inputs: tuple[Tensor, ...]
    operands: tuple[Tensor | Numbers, ...]
    """What an operation (`x + 3`) is applied to, in order, constants included; the inputs again for a layer."""
    output_shape: Shape
    emit: Emitter
    layouts: Layouts
    converters: Mapping[str, Callable[[Call], Tensor]] = field(default_factory=dict)
    """Those of the user's own layers and activation functions, by the name that Keras registered them under."""

    @property
    def only(self) -> Tensor:
        """The input of a layer that has one."""
        return self.inputs[0]

    def native(self) -> Tensor:
        """The only input in Keras's order."""
        return self.layouts.native(self.only)

    def channels_first(self) -> Tensor:
        """The only input, channels first; layers with `data_format="channels_first"` are refused."""
        if getattr(self.layer, "data_format", "channels_last") != "channels_last":
            raise self.unsupported(f"data_format={self.layer.data_format!r}; channels_last is supported")
        return self.layouts.channels_first(self.only)

    def node(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Emit a node at this layer."""
        return self.emit.node(operator, inputs, where=self.path, **attributes)

    def result(self, value: ir.Value, layout: Layout = Layout.NATIVE) -> Tensor:
        """Return the layer's output: `value` with the shape that Keras gives it."""
        return Tensor(value, self.output_shape, layout)

    def like_input(self, value: ir.Value, tensor: Tensor | None = None) -> Tensor:
        """Return the layer's output where it has the layout of `tensor` (the only input by default)."""
        return replace(tensor or self.only, value=value)

    def weight(self, attribute: str, shape: tuple[int, ...], arrange: Callable[[Numbers], Numbers] | None = None) -> ir.Value:
        """Return the layer's variable `attribute`, arranged; a layer called twice has it once."""

        def load() -> Numbers:
            numbers = floats_of(getattr(self.layer, attribute))
            return numbers if arrange is None else arrange(numbers)

        key = (id(self.layer), attribute, shape, self.only.layout)
        return self.emit.weight(key, f"{self.path}/{attribute}", shape, load)

    def constant(self, name: str, numbers: npt.ArrayLike) -> ir.Value:
        """Return a float constant of this layer."""
        return self.emit.floats(f"{self.path}/{name}", numbers)

    def integers(self, name: str, numbers: npt.ArrayLike) -> ir.Value:
        """Return an integer constant (a shape, axes, pads) of this layer."""
        return self.emit.integers(f"{self.path}/{name}", numbers)

    def broadcast(self, operator: str, tensor: Tensor, name: str, constant: npt.ArrayLike) -> Tensor:
        """Apply a binary operator to `tensor` and a constant that Keras would broadcast."""
        arranged = constant_in_order_of(tensor, np.asarray(constant, np.float32))
        return replace(tensor, value=self.node(operator, tensor.value, self.constant(name, arranged)))

    def unsupported(self, what: str) -> UnsupportedLayerError:
        """Return the error that names the layer, its class, its position and what is not supported about it."""
        return UnsupportedLayerError(
            f"layer {self.path!r} ({type(self.layer).__name__}, {self.position}) cannot be converted: {what}; "
            "replace it in the model, or give a converter for it with --converters FILE.py --trust"
        )


def floats_of(variable: Any) -> Numbers:
    """Return a framework's variable or tensor as float32, without a copy where it is that already."""
    value = getattr(variable, "value", variable)
    if hasattr(value, "read_value") and value.dtype == "float32":  # TensorFlow: its own conversion to NumPy copies
        value = memoryview(value.read_value())
    return np.asarray(value, np.float32)
