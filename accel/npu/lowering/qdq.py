"""Read a quantized ONNX graph (QDQ form): nodes in order, constants, shapes, scales and quantized weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgewright.errors import ModelError, first_line

Array = npt.NDArray[Any]
_FOLDED = ("Constant", "Cast", "Pow")


class UnsupportedError(Exception):
    """The reason why a node cannot run on the NPU, as the coverage report shows it."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The parameters of a QuantizeLinear or DequantizeLinear: scale and zero point, per tensor or along `axis`."""

    scale: Array
    zero_point: Array
    axis: int

    def per_tensor(self) -> tuple[float, int]:
        """Return scale and zero point of an activation in int8; the zero point of a uint8 tensor is 128 higher.

        Raises:
            UnsupportedError: the scale is per channel or not positive, or the type is neither int8 nor uint8.
        """
        if self.scale.size != 1:
            raise UnsupportedError("its activations are quantized per channel; the NPU supports one scale per tensor")
        if self.zero_point.dtype not in (np.int8, np.uint8):
            raise UnsupportedError(f"its activations are {self.zero_point.dtype}; the NPU supports int8 and uint8")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise UnsupportedError(f"its scale must be a positive number, not {self.scale.reshape(-1)[0]}")
        shift = 128 if self.zero_point.dtype == np.uint8 else 0
        return float(self.scale.reshape(-1)[0]), int(self.zero_point.reshape(-1)[0]) - shift


class QdqGraph:
    """Read-only view of an ONNX graph with indexes of its nodes, constants and shapes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            raise ModelError(f"the shapes in the graph must be consistent: {first_line(error)}") from error
        self.graph = inferred.graph
        self._initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in tensors_read(node):
                self._consumers[name].append(node)
        self.outputs = [output.name for output in self.graph.output]
        self._constants = constant_names(self.graph, self._initializers)
        values = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        self._shapes = {value.name: _dimensions(value) for value in values}

    def inputs(self) -> Iterator[str]:
        """Yield the names of the graph inputs without an initializer."""
        return (value.name for value in real_inputs(self.graph))

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read `name`."""
        return self._consumers.get(name, [])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of `name` without the batch axis; raise `UnsupportedError` if it is not static."""
        shape = self._shapes.get(name)
        if not shape or any(size is None for size in shape[1:]):
            raise UnsupportedError(f"the shape of {name} must be static, except for the batch axis")
        return tuple(int(size or 0) for size in shape[1:])

    def check_batch(self, name: str) -> None:
        """Raise `UnsupportedError` if the first axis of `name` is known not to count the samples."""
        batch = {(self._shapes.get(given) or (None,))[0] for given in self.inputs()}
        first = (self._shapes.get(name) or (None,))[0]
        if first is not None and first not in batch:
            raise UnsupportedError(f"the first axis of {name} must count the samples, but it has {first} elements")

    def is_constant(self, name: str) -> bool:
        """Return true if `name` depends on no input of the graph."""
        return name in self._constants

    def constant(self, name: str) -> Array | None:
        """Return the value of an initializer, or of Constant, Cast and Pow applied to initializers; None for other tensors."""
        if name in self._initializers:
            return numpy_helper.to_array(self._initializers[name])
        node = self.producers.get(name)
        if node is None or node.op_type not in _FOLDED or name not in self._constants:
            return None
        values: dict[str, Any] = {read: self.constant(read) for read in node.input}
        if any(value is None for value in values.values()):
            return None
        (folded,) = ReferenceEvaluator(node).run(None, values)
        return np.asarray(folded)

    def numbers(self, name: str) -> Array | None:
        """Return a constant as float64, dequantized if it is quantized per tensor, or None if `name` is not constant."""
        value = self.constant(name)
        node = self.producers.get(name)
        if value is None and node is not None and node.op_type == "DequantizeLinear":
            quantized, scale = self.constant(node.input[0]), self.constant(node.input[1])
            zero = self.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1)
            if quantized is not None and scale is not None and zero is not None and scale.size == zero.size == 1:
                value = (quantized.astype(np.float32) - zero.astype(np.float32)) * scale
        return None if value is None else value.astype(np.float64)

    def number(self, name: str) -> float | None:
        """Return the value of a constant with one element, dequantized, or None for other tensors."""
        value = self.numbers(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def scale(self, node: onnx.NodeProto) -> Scale:
        """Return the parameters of a (De)QuantizeLinear node; raise `UnsupportedError` if the scale is not constant."""
        scale = self.constant(node.input[1])
        if scale is None:
            raise UnsupportedError("its scale is computed, not a constant")
        zero_point = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        zero_point = np.zeros(1, np.uint8) if zero_point is None else zero_point
        return Scale(np.atleast_1d(scale), np.atleast_1d(zero_point), attribute(node, "axis", 1))

    def weights(self, name: str) -> tuple[Array, Scale]:
        """Return the int8 constant and the scale of `name`, the output of a DequantizeLinear.

        Raises:
            UnsupportedError: `name` is not a dequantized constant.
        """
        node = self.producers.get(name)
        integers = self.constant(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else None
        if node is None or integers is None:
            raise UnsupportedError("its weights are not quantized constants")
        scale = self.scale(node) if len(node.input) > 2 else Scale(*self._bare_scale(node, integers), attribute(node, "axis", 1))
        return integers, scale

    def blocked_weights(self, name: str) -> tuple[Array, npt.NDArray[np.int64]] | None:
        """Return elements and exponents of block-scaled weights, both of the weight's shape, or None for other weights.

        Scheme mxint8 writes them as a DequantizeLinear with a block_size, optionally followed by a Reshape.

        Raises:
            UnsupportedError: elements or scales are not constant, or a scale is not a power of two.
        """
        node = self.producers.get(name)
        shape = self.constant(node.input[1]) if node is not None and node.op_type == "Reshape" else None
        if node is not None and shape is not None:
            node = self.producers.get(node.input[0])
        size = int(attribute(node, "block_size", 0)) if node is not None and node.op_type == "DequantizeLinear" else 0
        if node is None or size == 0:
            return None
        elements, scales = self.constant(node.input[0]), self.constant(node.input[1])
        if elements is None or scales is None or len(node.input) > 2:
            raise UnsupportedError("its block-scaled weights must be constants without zero points")
        axis = int(attribute(node, "axis", 1))
        mantissas, exponents = np.frexp(scales.astype(np.float64))
        if np.any(mantissas != 0.5):
            raise UnsupportedError("the scales of its blocks must be powers of two")
        spread = np.repeat(exponents.astype(np.int64) - 1, size, axis=axis)
        spread = np.take(spread, np.arange(elements.shape[axis]), axis=axis)
        target = elements.shape if shape is None else shape
        return elements.reshape(target), spread.reshape(target)

    def _bare_scale(self, node: onnx.NodeProto, integers: Array) -> tuple[Array, Array]:
        scale = self.constant(node.input[1])
        if scale is None:
            raise UnsupportedError("its scale is computed, not a constant")
        return np.atleast_1d(scale), np.zeros(1, integers.dtype)


def constant_names(graph: onnx.GraphProto, initializers: Iterable[str]) -> set[str]:
    """Return the names of the tensors that depend on no input of the graph."""
    names = set(initializers)
    for node in graph.node:
        if all(name in names for name in tensors_read(node)):
            names.update(node.output)
    return names


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs of a graph without an initializer."""
    initialized = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in initialized]


def tensors_read(node: onnx.NodeProto) -> list[str]:
    """Return the inputs of a node and the outer tensors that its subgraphs (the bodies of If, Loop and Scan) read."""
    names = [name for name in node.input if name]
    for entry in node.attribute:
        for body in (entry.g, *entry.graphs) if entry.type in (entry.GRAPH, entry.GRAPHS) else ():
            own = {value.name for value in (*body.input, *body.initializer)}
            own |= {name for inner in body.node for name in inner.output}
            inside = [name for inner in body.node for name in tensors_read(inner)] + [value.name for value in body.output]
            names += [name for name in inside if name not in own]
    return names


def has_blocks(model: onnx.ModelProto) -> bool:
    """Return true if a graph has block-scaled weights."""
    return any(node.op_type == "DequantizeLinear" and attribute(node, "block_size", 0) for node in model.graph.node)


def why_float(model: onnx.ModelProto) -> str:
    """Return the part of an error message that explains why a graph is not quantized, and how to quantize it."""
    if has_blocks(model):
        return (
            "block-scaled weights and float activations: quantize it with scheme npu-mxint8 for an NPU of number_format "
            "mxint8, with npu-int8 for any"
        )
    return "no QuantizeLinear: quantize it with scheme npu-int8"


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute's value, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def node_name(node: onnx.NodeProto) -> str:
    """Return the node's name for reports."""
    return node.name or f"{node.op_type} of {node.output[0]}"


def _dimensions(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    sizes = value.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else None for size in sizes)
