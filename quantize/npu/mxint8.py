"""npu-mxint8: npu-int8 with weights in MXINT8 blocks, for NPUs of number_format mxint8 (docs/spec/npu.md, N140-N145).

An output channel of npu-int8 has one scale, so a few large weights reduce the resolution of all others. Here 32 input channels
share a power of two. Activations, biases and the corrections with the NPU's rounding are those of npu-int8 (int8.py).

layers      the weights that the NPU multiplies, with their input channels, from its compiler
exponents   one per block, not below the resolution of the NPU's accumulators (N143), and large enough for the bias
encode      a single rounding to the NPU's weights and biases: its compiler rounds no further, so the graph computes exactly what
            the NPU computes, and any runtime can verify it

Operators on the host stay int8 as in npu-int8, or float after the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from accel.npu.lowering.layers import ConvolutionLayer
from accel.npu.lowering.lower import lower
from accel.npu.lowering.microscaling import shift_weights
from accel.npu.lowering.qdq import attribute
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples
from edgewright.graphs.dead_code import remove_dead
from edgewright.progress import Progress, silent
from quantize.int8.int8 import Int8Settings
from quantize.int8.qdq import WEIGHTED, weight_of
from quantize.mx.encoding import BLOCK, LOWEST_EXPONENT, Blocks, encode
from quantize.mx.graph import FEWEST_CHANNELS, IR_VERSION, OPSET, BlockWriter, Layout
from quantize.npu.int8 import make_for_npu
from quantize.npu.overflow_guard import LARGEST_BIAS, guard_accumulators
from quantize.scheme import QuantizationResult

Float32 = npt.NDArray[np.float32]
Exponents = npt.NDArray[np.int64]
_Integer = TypeVar("_Integer", bound=np.integer[Any])


def make_npu_mxint8(
    build: BuildDirectory, samples: Samples, folder: Path, settings: Int8Settings, *, progress: Progress = silent
) -> QuantizationResult:
    """Write the npu-mxint8 variant of a build's graph into `folder`.

    Raises:
        ModelError: no operator of the graph can run on the NPU; the message has the reason for each.
    """
    return make_for_npu(build, samples, folder, settings, block_weights, progress=progress)


def block_weights(quantized: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `quantized` (int8) with the weights of the float `model` in blocks, in every layer of the NPU."""
    lowered = lower(guard_accumulators(quantized)).layers
    layers = {layer.name: layer for layer in lowered if isinstance(layer, ConvolutionLayer) and layer.operator in WEIGHTED}
    floats = {node.name: node for node in model.graph.node}
    graph = ir.from_proto(quantized)
    writer = BlockWriter(graph.graph)
    written: set[str] = set()
    for node in graph.graph:
        if node.name in layers:
            _replace(writer, node, _encoded(model, floats[node.name], layers[node.name]), written)
    remove_dead(graph)
    graph.graph.opset_imports[""] = max(OPSET, graph.graph.opset_imports[""])
    graph.ir_version = max(IR_VERSION, graph.ir_version)
    blocked: onnx.ModelProto = ir.to_proto(graph)
    return blocked


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """The parameters of a layer in the NPU's format, with the name of its weight."""

    weight: str
    shape: tuple[int, ...]
    layout: Layout
    blocks: Blocks
    bias: Float32 | None
    """In whole units of the accumulators; None for a layer without one."""


def _replace(writer: BlockWriter, node: ir.Node, encoded: _Encoded, written: set[str]) -> None:
    name = encoded.weight if encoded.weight not in written else f"{node.name}/{encoded.weight}"  # two layers may share a weight
    written.add(name)
    node.replace_input_with(1, writer.weight(name, encoded.shape, encoded.layout, lambda: encoded.blocks))
    if encoded.bias is not None:
        node.replace_input_with(2, writer.initializer(ir.tensor(encoded.bias, name=f"{node.name}/b")))


def _encoded(model: onnx.ModelProto, node: onnx.NodeProto, layer: ConvolutionLayer) -> _Encoded:
    weight = weight_of(model, node.input[1])
    cut = _cut(node, layer, weight.shape)
    bias = _bias(model, node)
    blocks = _blocks(weight, cut, _floor(bias, layer))
    if bias is not None:
        step = np.ldexp(layer.source.scale, cut.bases(blocks).astype(np.int32))
        whole = np.rint(bias.astype(np.float64) / step) * step
        bias = np.where(cut.pruned(blocks), bias, whole).astype(np.float32)
    return _Encoded(node.input[1], weight.shape, cut.layout, blocks, bias)


@dataclass(frozen=True, slots=True)
class _BlockCut:
    """The block layout of a layer's weight."""

    layout: Layout
    per_channel: bool
    """True for few input channels, depthwise and grouped kernels: one exponent per output channel (N144)."""

    def spread(self, of_channels: Exponents) -> Exponents:
        """Return one number per output channel in a shape that broadcasts to the blocks: outputs are the first or last axis."""
        shape = [1] * len(self.layout.shape)
        shape[0 if self.layout.axis else -1] = -1
        return of_channels.reshape(shape)

    def bases(self, blocks: Blocks) -> Exponents:
        """Return the exponent of the unit of each output channel in the NPU's compiler (N143)."""
        axis, length = blocks.axis, blocks.elements.shape[blocks.axis]
        exponents = np.repeat(blocks.exponents.astype(np.int64), BLOCK, axis=axis).take(range(length), axis=axis)
        return shift_weights(self._kernel(blocks.elements), self._kernel(exponents)).bases

    def pruned(self, blocks: Blocks) -> npt.NDArray[np.bool_]:
        """Return True for each output channel with only zero weights, which do not define a unit (N6)."""
        kernel = self._kernel(blocks.elements)
        return np.asarray(np.count_nonzero(kernel.reshape(len(kernel), -1), axis=1) == 0)

    def _kernel(self, numbers: npt.NDArray[_Integer]) -> npt.NDArray[_Integer]:
        """Return numbers of the layout's shape in that of the NPU's compiler: [outputs, inputs, rows, columns]."""
        outputs_first = numbers if self.layout.axis else np.moveaxis(numbers, -1, 0)
        return outputs_first.reshape(len(outputs_first), 1 if self.per_channel else outputs_first.shape[1], -1, 1)


def _cut(node: onnx.NodeProto, layer: ConvolutionLayer, shape: tuple[int, ...]) -> _BlockCut:
    """Return the block layout of a weight of `shape`: along the channels, which one pass of the array multiplies together.

    The layout never has the weight's own shape, so that a Reshape follows. Without it, onnxruntime 1.32 fuses blocks between
    quantized activations like scales per channel, and then fails to run ("filter scale shape invalid").
    """
    channels = layer.source.channels
    if node.op_type == "Conv":
        per_channel = shape[1] < FEWEST_CHANNELS or shape[1] != channels
        inputs = (math.prod(shape[1:]),) if per_channel else (channels, math.prod(shape[2:]))
        return _BlockCut(Layout(1, (shape[0], *inputs)), per_channel)
    per_channel = channels < FEWEST_CHANNELS
    inputs = (math.prod(shape) // len(layer.weights), 1) if per_channel else (channels, layer.source.height * layer.source.width)
    if attribute(node, "transB", 0):
        return _BlockCut(Layout(1, (len(layer.weights), *inputs)), per_channel)
    return _BlockCut(Layout(0, (*inputs, len(layer.weights))), per_channel)


def _bias(model: onnx.ModelProto, node: onnx.NodeProto) -> Float32 | None:
    initializers = {tensor.name for tensor in model.graph.initializer}
    return weight_of(model, node.input[2]) if len(node.input) > 2 and node.input[2] in initializers else None


def _floor(bias: Float32 | None, layer: ConvolutionLayer) -> Exponents:
    """Return the smallest exponent per output channel with which the bias fits the accumulators (overflow_guard.py)."""
    magnitudes = np.zeros(1) if bias is None else np.abs(bias.reshape(-1).astype(np.float64))
    needed = np.maximum(magnitudes / (layer.source.scale * LARGEST_BIAS), 2.0**LOWEST_EXPONENT)
    return np.broadcast_to(np.ceil(np.log2(needed)).astype(np.int64), len(layer.weights))


def _blocks(weight: Float32, cut: _BlockCut, floor: Exponents) -> Blocks:
    """Encode with the exponents of the NPU's compiler, which rounds once instead of twice."""
    numbers = weight.reshape(cut.layout.shape)
    lowest = np.maximum(cut.bases(encode(numbers, cut.layout.axis)), floor)
    return encode(numbers, cut.layout.axis, cut.spread(lowest))
