"""mxint8: weights in OCP Microscaling blocks, a quarter of the bytes, without calibration samples.

The number format is in encoding.py, its form in a graph in graph.py. A block runs along the input channels, the axis of the sum
in a product. In a kernel with too few of them (the first layer, a depthwise one), it runs along channels and window together.
In a table of embeddings it runs along the row, and only the rows that are read are expanded.

Activations stay float32. MX would scale each of their blocks for every image, which takes a dozen ONNX operators per layer that
no runtime fuses. So a variant is small, but not fast: onnxruntime expands the weights once, on loading.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import onnx_ir as ir

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples
from edgewright.errors import ModelError
from edgewright.graphs.dead_code import remove_dead
from quantize.mx.encoding import Blocks, encode
from quantize.mx.graph import FEWEST_CHANNELS, BlockWriter, Layout
from quantize.scheme import read_float_graph, write_variant_graph
from quantize.weights.editing import numbers_of, shape_of, weight_of
from quantize.weights.weight_only import FEWEST_WEIGHTS

_RECURRENT = ("LSTM", "GRU", "RNN")
_PLACES = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), (1,)),
    **dict.fromkeys(_RECURRENT, (1, 2)),
    "Gather": (0,),
}
"""The inputs that are weights, by operator."""


def make_mxint8(build: BuildDirectory, _samples: Samples, folder: Path) -> None:
    """Write the mxint8 variant of a build's graph into `folder`.

    Raises:
        ModelError: the graph has no layer with weights.
    """
    model = read_float_graph(build)
    weighted = sorted(_weighted(model.graph), key=lambda layer: layer[0].op_type == "Gather")  # its node is replaced
    if not weighted:
        operators = sorted({node.op_type for node in model.graph})
        raise ModelError(f"{build.path}: mxint8 needs layers with weights (Conv, Gemm, MatMul, …), but the graph has {operators}")
    written: dict[tuple[ir.Value, Layout], ir.Value] = {}
    writer = BlockWriter(model.graph)
    for node, place, weight in weighted:
        key = weight, _layout(node, tuple(weight.shape.numpy()))
        if node.op_type == "Gather":
            writer.rows(node, str(weight.name), key[1], partial(_blocks, *key))
            continue
        if key not in written:
            written[key] = writer.weight(str(weight.name), tuple(weight.shape.numpy()), key[1], partial(_blocks, *key))
        node.replace_input_with(place, written[key])
    remove_dead(model)
    logging.getLogger(__name__).info("encoded weights=%d", len(weighted))
    write_variant_graph(build, model, folder)


def _weighted(graph: ir.Graph) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """Yield each layer with the place of a weight among its inputs, and the weight."""
    for node in graph:
        for place in _PLACES.get(node.op_type, ()):
            weight = weight_of(node, place)
            if weight is None or len(weight.shape) < 2 or not _is_layer(node, weight):
                continue
            yield node, place, weight


def _is_layer(node: ir.Node, weight: ir.Value) -> bool:
    """Return False for a Gather that selects anything but rows of a large table."""
    if node.op_type != "Gather":
        return True
    rows = len(weight.shape) == 2 and node.attributes.get_int("axis", 0) == 0
    return rows and math.prod(shape_of(weight)) >= FEWEST_WEIGHTS


def _layout(node: ir.Node, shape: tuple[int, ...]) -> Layout:
    """Return the block layout of a weight: along the axis that its products sum over."""
    if node.op_type == "Conv":
        if shape[1] >= FEWEST_CHANNELS:
            return Layout(1, shape)
        return Layout(1, (shape[0], math.prod(shape[1:])))
    if node.op_type in _RECURRENT or node.op_type == "Gather":
        return Layout(len(shape) - 1, shape)
    if node.op_type == "ConvTranspose":
        return Layout(0, shape)
    transposed = node.attributes.get_int("transB", 0) if node.op_type == "Gemm" else 0
    return Layout(1 if transposed else len(shape) - 2, shape)


def _blocks(weight: ir.Value, layout: Layout) -> Blocks:
    return encode(numbers_of(weight).reshape(layout.shape), layout.axis)
