"""npu-mxint8: npu-int8 with weights in MXINT8 blocks, for NPUs of number_format mxint8 (docs/spec/npu.md, N140-N145).

An output channel of npu-int8 has one scale, so a few large weights cost all the others their bits. Here 32 input channels share a
power of two of their own. Activations, biases and the corrections by the NPU's rounding are those of npu-int8 (npu_int8.py).

layers      which weights the NPU will multiply, and with which input channels: its compiler's own answer
exponents   one per block, none under what the NPU's accumulators can tell apart (N143), nor too small for the bias
encode      one rounding, to what the NPU multiplies and adds, biases too: its compiler rounds nothing more, so that the graph
            is what the NPU computes, and any runtime can referee it

What the NPU leaves to the host stays int8 as in npu-int8, or float behind the cut.
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
from quantize.int8.qdq import weight_of
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
        ModelError: nothing in the graph can run on the NPU, with the reason for each operator.
    """
    return make_for_npu(build, samples, folder, settings, block_weights, progress=progress)


def block_weights(quantized: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `quantized` (int8) with the weights of the float `model` in blocks, in every layer that the NPU multiplies."""
    layers = {layer.name: layer for layer in lower(guard_accumulators(quantized)).layers if isinstance(layer, ConvolutionLayer)}
    floats = {node.name: node for node in model.graph.node}
    made = ir.from_proto(quantized)
    writer = BlockWriter(made.graph)
    written: set[str] = set()
    for node in made.graph:
        if node.name in layers:
            _replace(writer, node, _encoded(model, floats[node.name], layers[node.name]), written)
    remove_dead(made)
    made.graph.opset_imports[""] = max(OPSET, made.graph.opset_imports[""])
    made.ir_version = max(IR_VERSION, made.ir_version)
    blocked: onnx.ModelProto = ir.to_proto(made)
    return blocked


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """A layer's parameters as the NPU holds them, and how they are called."""

    weight: str
    shape: tuple[int, ...]
    layout: Layout
    blocks: Blocks
    bias: Float32 | None
    """In whole units of the accumulators; None where the layer has none."""


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
class _Cut:
    """How a layer's weight is cut."""

    layout: Layout
    per_channel: bool
    """A kernel of few input channels, a depthwise or a grouped one has one exponent per output channel (N144)."""

    def spread(self, of_channels: Exponents) -> Exponents:
        """Return a number per output channel in a shape that goes with the blocks: outputs come first or last."""
        shape = [1] * len(self.layout.shape)
        shape[0 if self.layout.axis else -1] = -1
        return of_channels.reshape(shape)

    def bases(self, blocks: Blocks) -> Exponents:
        """Return what the NPU's compiler makes the unit of each output channel (N143)."""
        axis, length = blocks.axis, blocks.elements.shape[blocks.axis]
        exponents = np.repeat(blocks.exponents.astype(np.int64), BLOCK, axis=axis).take(range(length), axis=axis)
        return shift_weights(self._kernel(blocks.elements), self._kernel(exponents)).bases

    def pruned(self, blocks: Blocks) -> npt.NDArray[np.bool_]:
        """Tell of each output channel whether its weights are all zero: then they do not say what a unit is (N6)."""
        kernel = self._kernel(blocks.elements)
        return np.asarray(np.count_nonzero(kernel.reshape(len(kernel), -1), axis=1) == 0)

    def _kernel(self, numbers: npt.NDArray[_Integer]) -> npt.NDArray[_Integer]:
        """Return numbers of the layout's shape as the NPU's compiler takes them: [outputs, inputs, rows, columns]."""
        outputs_first = numbers if self.layout.axis else np.moveaxis(numbers, -1, 0)
        return outputs_first.reshape(len(outputs_first), 1 if self.per_channel else outputs_first.shape[1], -1, 1)


def _cut(node: onnx.NodeProto, layer: ConvolutionLayer, shape: tuple[int, ...]) -> _Cut:
    """Return the cut of a weight of `shape`: blocks run along the channels, which a pass of the array takes in together.

    The layout is never the weight's own shape, so that a Reshape follows: without one onnxruntime 1.32 fuses blocks between
    quantized activations as if they were scales per channel, and then refuses to run ("filter scale shape invalid").
    """
    channels = layer.source.channels
    if node.op_type == "Conv":
        per_channel = shape[1] < FEWEST_CHANNELS or shape[1] != channels
        inputs = (math.prod(shape[1:]),) if per_channel else (channels, math.prod(shape[2:]))
        return _Cut(Layout(1, (shape[0], *inputs)), per_channel)
    per_channel = channels < FEWEST_CHANNELS
    inputs = (math.prod(shape) // len(layer.weights), 1) if per_channel else (channels, layer.source.height * layer.source.width)
    if attribute(node, "transB", 0):
        return _Cut(Layout(1, (len(layer.weights), *inputs)), per_channel)
    return _Cut(Layout(0, (*inputs, len(layer.weights))), per_channel)


def _bias(model: onnx.ModelProto, node: onnx.NodeProto) -> Float32 | None:
    known = {tensor.name for tensor in model.graph.initializer}
    return weight_of(model, node.input[2]) if len(node.input) > 2 and node.input[2] in known else None


def _floor(bias: Float32 | None, layer: ConvolutionLayer) -> Exponents:
    """Return the smallest exponent of each output channel with which its bias fits the accumulators (headroom.py)."""
    sizes = np.zeros(1) if bias is None else np.abs(bias.reshape(-1).astype(np.float64))
    needed = np.maximum(sizes / (layer.source.scale * LARGEST_BIAS), 2.0**LOWEST_EXPONENT)
    return np.broadcast_to(np.ceil(np.log2(needed)).astype(np.int64), len(layer.weights))


def _blocks(weight: Float32, cut: _Cut, floor: Exponents) -> Blocks:
    """Encode with the exponents that the NPU's compiler would leave, rounding once instead of twice."""
    numbers = weight.reshape(cut.layout.shape)
    lowest = np.maximum(cut.bases(encode(numbers, cut.layout.axis)), floor)
    return encode(numbers, cut.layout.axis, cut.spread(lowest))
