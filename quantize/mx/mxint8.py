"""mxint8: weights in OCP Microscaling blocks, a quarter of the bytes, without calibration samples.

The number format is in encoding.py, its form in a graph in graph.py. A block runs along the input channels, the axis of the sum
in a product. In a kernel with too few of them (the first layer, a depthwise one), it runs along channels and window together.

Activations stay float32. MX would scale each of their blocks for every image, which takes a dozen ONNX operators per layer that
no runtime fuses. So a variant is small, but not fast: onnxruntime expands the weights once, on loading.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples
from edgewright.errors import ModelError
from edgewright.graphs.dead_code import remove_dead
from quantize.mx.encoding import Blocks, encode
from quantize.mx.graph import FEWEST_CHANNELS, BlockWriter, Layout
from quantize.scheme import read_float_graph, write_variant_graph

_KERNELS = {"Conv", "ConvTranspose"}
_MATRICES = {"Gemm", "MatMul"}


def make_mxint8(build: BuildDirectory, _samples: Samples, folder: Path) -> None:
    """Write the mxint8 variant of a build's graph into `folder`.

    Raises:
        ModelError: the graph has no layer with weights.
    """
    model = read_float_graph(build)
    weighted = list(_weighted(model.graph))
    if not weighted:
        operators = sorted({node.op_type for node in model.graph})
        raise ModelError(f"{build.path}: mxint8 needs layers with weights (Conv, Gemm, MatMul, …), but the graph has {operators}")
    written: dict[tuple[ir.Value, Layout], ir.Value] = {}
    writer = BlockWriter(model.graph)
    for node, weight in weighted:
        key = weight, _layout(node, tuple(weight.shape.numpy()))
        if key not in written:
            written[key] = _written(writer, *key)
        node.replace_input_with(1, written[key])
    remove_dead(model)
    logging.getLogger(__name__).info("encoded weights=%d", len(written))
    write_variant_graph(build, model, folder)


def _weighted(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    for node in graph:
        weight = node.inputs[1] if node.op_type in _KERNELS | _MATRICES and len(node.inputs) > 1 else None
        if weight is not None and weight.const_value is not None and weight.dtype is ir.DataType.FLOAT and len(weight.shape) > 1:
            yield node, weight


def _layout(node: ir.Node, shape: tuple[int, ...]) -> Layout:
    """Return the block layout of a weight: along the axis that its products sum over."""
    if node.op_type == "Conv":
        if shape[1] >= FEWEST_CHANNELS:
            return Layout(1, shape)
        return Layout(1, (shape[0], math.prod(shape[1:])))
    if node.op_type == "ConvTranspose":
        return Layout(0, shape)
    transposed = node.attributes.get_int("transB", 0) if node.op_type == "Gemm" else 0
    return Layout(1 if transposed else len(shape) - 2, shape)


def _written(writer: BlockWriter, weight: ir.Value, layout: Layout) -> ir.Value:
    tensor = weight.const_value
    if tensor is None:
        raise AssertionError(f"{weight.name} is not a weight")

    def blocks() -> Blocks:
        return encode(tensor.numpy().reshape(layout.shape), layout.axis)

    return writer.weight(str(weight.name), tuple(weight.shape.numpy()), layout, blocks)
