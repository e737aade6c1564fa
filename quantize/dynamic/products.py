"""MatMul and Gemm with integers: the activation is quantized with the range that it has at that moment.

    x -> [Mul] -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul(scales) -> [Add]

onnxruntime runs this as one or two kernels (DynamicQuantizeMatMul, MatMulIntegerToFloat). The nodes are standard ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantize.dynamic.rounding import Rounded, round_without_saturation
from quantize.weights.editing import GraphEditor, numbers_of, shape_of, weight_of

FEWEST_WEIGHTS = 4096
"""Below this a product takes less time than the range of its input."""

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Product:
    """A node that multiplies an activation by a constant matrix."""

    node: ir.Node
    weight: ir.Value
    transposed: bool = False
    """True if the weight is stored as [outputs, inputs]."""
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def activation(self) -> ir.Value:
        """The input that is quantized during inference."""
        value = self.node.inputs[0]
        if value is None:
            raise AssertionError(f"{self.node.name} has no input")
        return value

    def matrix(self) -> Float32:
        """Return the weight as [inputs, outputs], with the factor of a Gemm."""
        numbers = numbers_of(self.weight)
        return (numbers.T if self.transposed else numbers) * np.float32(self.alpha)


def integer_products(graph: ir.Graph) -> Iterator[Product]:
    """Yield the products of `graph` that are large enough, in its order."""
    for node in graph:
        weight = weight_of(node, 1) if node.domain == "" and node.op_type in ("MatMul", "Gemm") else None
        if weight is None or len(shape_of(weight)) != 2 or np.prod(shape_of(weight)) < FEWEST_WEIGHTS:
            continue
        if node.inputs[0] is None or node.inputs[0].const_value is not None or node.attributes.get_int("transA", 0):
            continue
        transposed = bool(node.attributes.get_int("transB", 0))
        yield Product(node, weight, transposed, node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0))


class ProductWriter:
    """A writer of products with integers; products of one activation share its quantizer."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._quantized: dict[ir.Value, tuple[ir.Value, ...]] = {}

    def write(self, product: Product, factors: Float32 | None) -> None:
        """Replace a product; `factors` divide the channels of its activation."""
        node, editor = product.node, GraphEditor(self._graph, product.node)
        name = str(node.name)
        numbers, scale, zero = self._quantizer(product.activation, factors, editor)

        def rounded() -> Rounded:
            matrix = product.matrix()
            return round_without_saturation(matrix if factors is None else matrix * factors[:, None])

        inputs, outputs = product.matrix().shape
        elements = editor.constant(f"{name}/q", (inputs, outputs), lambda: rounded().elements, "int8")
        scales = editor.constant(f"{name}/s", (outputs,), lambda: rounded().scales)
        (sums,) = editor.add("MatMulInteger", [numbers, elements, zero], f"{name}/integers")
        (floats,) = editor.add("Cast", [sums], f"{name}/floats", {"to": int(ir.DataType.FLOAT)})
        (steps,) = editor.add("Mul", [scale, scales], f"{name}/steps")
        result = editor.add("Mul", [floats, steps], f"{name}/product")
        editor.replace(self._with_bias(product, result, editor))

    def _quantizer(self, activation: ir.Value, factors: Float32 | None, editor: GraphEditor) -> tuple[ir.Value, ...]:
        """Return the bytes, the scale and the zero point of an activation; those for the first product serve all of them."""
        if activation not in self._quantized:
            name, source = str(activation.name), activation
            if factors is not None:
                inverse = editor.constant(f"{name}/inverse", factors.shape, lambda: 1 / factors)
                (source,) = editor.add("Mul", [activation, inverse], f"{name}/smooth")
            names = tuple(f"{name}/{part}" for part in ("bytes", "scale", "zero"))
            self._quantized[activation] = tuple(editor.add("DynamicQuantizeLinear", [source], f"{name}/quantizer", outputs=names))
        return self._quantized[activation]

    def _with_bias(self, product: Product, result: ir.Value, editor: GraphEditor) -> list[ir.Value]:
        node = product.node
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is None:
            return list(result)
        if product.beta != 1.0:
            beta = editor.constant(f"{node.name}/beta", (), lambda: np.array(product.beta))
            (bias,) = editor.add("Mul", [bias, beta], f"{node.name}/bias")
        return list(editor.add("Add", [result[0], bias], f"{node.name}/sum"))
