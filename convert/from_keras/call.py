"""One call of one Keras layer, the argument of every rule: the layer, its inputs, and methods that emit nodes."""

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

Floats = npt.NDArray[np.float32]


class UnsupportedLayerError(ModelError):
    """A layer, or a setting of a layer, without a rule. TensorFlow can still trace such a layer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One application of a layer to tensors."""

    layer: Any
    path: str
    """The layer's name with those of its nested models: `backbone/conv1`."""
    position: str
    """Position for messages: `layer 4 of 12`."""
    inputs: tuple[Tensor, ...]
    operands: tuple[Tensor | Floats, ...]
    """Operands of an operation (`x + 3`) in order, including constants; the inputs in the case of a layer."""
    mask: ir.Value | None
    """Boolean [batch, time]: the steps that count; None if all do."""
    output_shape: Shape
    emit: Emitter
    layouts: Layouts
    converters: Mapping[str, Callable[[Call], Tensor]] = field(default_factory=dict)
    """Converters of custom layers and activation functions, by registered name."""

    @property
    def only(self) -> Tensor:
        """The input of a layer with one input."""
        return self.inputs[0]

    def native(self) -> Tensor:
        """Return the only input in Keras's axis order."""
        return self.layouts.native(self.only)

    def channels_first(self) -> Tensor:
        """Return the only input, channels first.

        Raises:
            UnsupportedLayerError: the layer has `data_format="channels_first"`.
        """
        if getattr(self.layer, "data_format", "channels_last") != "channels_last":
            raise self.unsupported(f"data_format={self.layer.data_format!r}; only channels_last is supported")
        return self.layouts.channels_first(self.only)

    def node(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Emit a node named after this layer, and return its output."""
        return self.emit.node(operator, inputs, where=self.path, **attributes)

    def result(self, value: ir.Value, layout: Layout = Layout.NATIVE) -> Tensor:
        """Return the layer's output: `value` with the output shape of the Keras layer."""
        return Tensor(value, self.output_shape, layout)

    def like_input(self, value: ir.Value, tensor: Tensor | None = None) -> Tensor:
        """Return the layer's output with shape and layout of `tensor` (the only input by default)."""
        return replace(tensor or self.only, value=value)

    def weight(self, attribute: str, shape: tuple[int, ...], arrange: Callable[[Floats], Floats] | None = None) -> ir.Value:
        """Return the layer's variable `attribute` as a weight, rearranged by `arrange`; calls of one layer share it."""

        def load() -> Floats:
            variable = floats_of(getattr(self.layer, attribute))
            return variable if arrange is None else arrange(variable)

        key = (id(self.layer), attribute, shape, self.only.layout)
        return self.emit.weight(key, f"{self.path}/{attribute}", shape, load)

    def constant(self, name: str, values: npt.ArrayLike) -> ir.Value:
        """Return a float32 constant named after this layer."""
        return self.emit.floats(f"{self.path}/{name}", values)

    def integers(self, name: str, values: npt.ArrayLike) -> ir.Value:
        """Return an int64 constant (a shape, axes, pads) named after this layer."""
        return self.emit.integers(f"{self.path}/{name}", values)

    def broadcast(self, operator: str, tensor: Tensor, name: str, constant: npt.ArrayLike) -> Tensor:
        """Apply a binary operator to `tensor` and a constant that broadcasts against it in Keras's order."""
        arranged = constant_in_order_of(tensor, np.asarray(constant, np.float32))
        return replace(tensor, value=self.node(operator, tensor.value, self.constant(name, arranged)))

    def unsupported(self, reason: str) -> UnsupportedLayerError:
        """Return the error that names the layer, its class, its position and the reason."""
        return UnsupportedLayerError(
            f"layer {self.path!r} ({type(self.layer).__name__}, {self.position}) cannot be converted: {reason}; "
            "replace it in the model, or give a converter for it with --converters FILE.py --trust"
        )


def floats_of(variable: Any) -> Floats:
    """Return a framework's variable or tensor as float32, without a copy if it is float32 already."""
    value = getattr(variable, "value", variable)
    if hasattr(value, "read_value") and value.dtype == "float32":  # TensorFlow copies in its own conversion to NumPy
        value = memoryview(value.read_value())
    return np.asarray(value, np.float32)
