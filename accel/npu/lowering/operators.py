"""Lower single ONNX operators to the arithmetic of the array and the vector unit.

Zero points: the array multiplies raw integers, so the sum over a window of (q - zero) x w becomes the sum of q x w plus a
constant. The constant is added to the bias, and the padding value is the zero point (docs/spec/npu.md, N3, N33).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from accel.npu.arithmetic import Int8, Range
from accel.npu.isa import LAYOUTS
from accel.npu.lowering.layers import ConvolutionLayer, Layer, OutputStage, PoolingLayer, QuantizedTensor, Window
from accel.npu.lowering.microscaling import shift_weights
from accel.npu.lowering.qdq import QdqGraph, Scale, UnsupportedError, attribute, node_name
from edgewright.errors import ModelError

_HIGHEST = {field.name: field.high for layout in LAYOUTS.values() for field in layout}
BIAS_OF_PRUNED = 1 << 30
"""The bias of a pruned channel, in units of the accumulator; no weight determines its unit."""
_LARGEST_PLANE = _HIGHEST["height"]


def convolution(
    graph: QdqGraph, node: onnx.NodeProto, source: QuantizedTensor, result: QuantizedTensor, output: Range
) -> ConvolutionLayer:
    """Lower Conv; groups that are not depthwise become a dense kernel with zeros between the groups.

    Raises:
        UnsupportedError: the NPU does not support its attributes or weights.
        ModelError: a weight is -128, or an accumulator could overflow.
    """
    kernel = _kernel(graph, node, lambda weights: weights[:, :, None] if weights.ndim == 3 else weights)
    if kernel.elements.ndim != 4:
        raise UnsupportedError(f"the NPU convolves over one or two axes, not {kernel.elements.ndim - 2}")
    groups = int(attribute(node, "group", 1))
    depthwise = groups > 1 and groups == source.channels == len(kernel.elements)
    if groups > 1 and not depthwise:
        kernel = _dense(kernel, groups)
    window = _window(node, source, result, (kernel.elements.shape[2], kernel.elements.shape[3]))
    kernel, bias = _biased(kernel, _real_bias(graph, node, len(kernel.elements)) / source.scale)
    return ConvolutionLayer(
        name=node_name(node),
        operator=node.op_type,
        source=source,
        result=result,
        window=window,
        weights=kernel.elements,
        depthwise=depthwise,
        stage=_weighted_stage(kernel, bias, source, result, output),
        shifts=kernel.shifts,
    )


def batch_normalization(
    graph: QdqGraph, node: onnx.NodeProto, source: QuantizedTensor, result: QuantizedTensor, output: Range
) -> ConvolutionLayer:
    """Lower a BatchNormalization that is not folded into a convolution: a depthwise kernel of 1 x 1.

    All weights are 127, or -127 for a negative gain, so only the bias is rounded.
    """
    constants = [graph.numbers(name) for name in node.input[1:5]]
    if any(values is None for values in constants):
        raise UnsupportedError("its scales and means are computed, not constants")
    gamma, beta, mean, variance = (np.asarray(values) for values in constants)
    if gamma.size != source.channels:
        raise UnsupportedError(f"it normalizes {gamma.size} values of a vector that the NPU stores as {source.channels} planes")
    gain = gamma / np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))
    elements = (127 * np.sign(gain)).astype(np.int8).reshape(-1, 1, 1, 1)
    kernel = _Kernel(elements, elements.astype(np.int64), np.where(gain == 0, 1.0, np.abs(gain) / 127))
    kernel, bias = _biased(kernel, (beta - mean * gain) / source.scale)
    return ConvolutionLayer(
        name=node_name(node),
        operator=node.op_type,
        source=source,
        result=result,
        window=Window(),
        weights=elements,
        depthwise=True,
        stage=_weighted_stage(kernel, bias, source, result, output),
    )


def fully_connected(
    graph: QdqGraph, node: onnx.NodeProto, source: QuantizedTensor, result: QuantizedTensor, output: Range
) -> ConvolutionLayer:
    """Lower Gemm or MatMul to a convolution whose kernel is the whole input plane."""
    if float(attribute(node, "alpha", 1.0)) != 1.0 or float(attribute(node, "beta", 1.0)) != 1.0 or attribute(node, "transA", 0):
        raise UnsupportedError("the NPU supports Gemm with alpha 1, beta 1 and without transA only")

    def as_windows(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if weights.ndim != 2 or not source.flat:
            raise UnsupportedError("the NPU multiplies a vector by a constant matrix")
        rows = weights if attribute(node, "transB", 0) else weights.T
        return np.ascontiguousarray(rows).reshape(len(rows), source.channels, source.height, source.width)

    kernel = _kernel(graph, node, as_windows)
    kernel, bias = _biased(kernel, _real_bias(graph, node, len(kernel.elements)) / source.scale)
    return ConvolutionLayer(
        name=node_name(node),
        operator=node.op_type,
        source=source,
        result=result,
        window=Window(rows=source.height, columns=source.width),
        weights=kernel.elements,
        depthwise=False,
        stage=_weighted_stage(kernel, bias, source, result, output),
        shifts=kernel.shifts,
    )


def pooling_window(node: onnx.NodeProto, source: QuantizedTensor, result: QuantizedTensor) -> Window:
    """Return the window of a MaxPool or AveragePool; raise `UnsupportedError` for unsupported attributes."""
    if attribute(node, "ceil_mode", 0):
        raise UnsupportedError("the NPU does not support ceil_mode, whose windows extend beyond the padding")
    kernel = _per_axis(attribute(node, "kernel_shape", []))
    if len(kernel) != 2:
        raise UnsupportedError(f"the NPU pools over one or two axes, not {len(kernel)}")
    window = _window(node, source, result, (kernel[0], kernel[1]))
    if node.op_type == "AveragePool" and not attribute(node, "count_include_pad", 0) and _reaches_padding(window, source, result):
        raise UnsupportedError("the NPU does not support count_include_pad 0 with padding, because the divisors differ")
    return window


def reduced_axes(graph: QdqGraph, node: onnx.NodeProto, rank: int) -> list[int]:
    """Return the sorted axes that a global pooling or a reduction reduces."""
    if node.op_type.startswith("Global"):
        return list(range(2, rank))
    axes = attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = graph.constant(node.input[1])
    return sorted(int(axis) % rank for axis in axes) if axes is not None and len(axes) else list(range(rank))


def pooling(
    node: onnx.NodeProto,
    source: QuantizedTensor,
    result: QuantizedTensor,
    window: Window,
    stage: OutputStage,
    *,
    maximum: bool = False,
) -> PoolingLayer:
    """Return the layer of a pooling, or of a copy."""
    return PoolingLayer(
        name=node_name(node),
        operator=node.op_type,
        source=source,
        result=result,
        window=window,
        maximum=maximum,
        stage=stage,
    )


def clamp_limits(graph: QdqGraph, node: onnx.NodeProto) -> tuple[float, float]:
    """Return the lower and upper limits of a Relu or Clip as real values."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = []
    for place, default in ((1, -np.inf), (2, np.inf)):
        name = node.input[place] if len(node.input) > place else ""
        value = graph.constant(name) if name else None
        if name and value is None:
            raise UnsupportedError("its limits are computed, not constants")
        bounds.append(default if value is None else float(value))
    return bounds[0], bounds[1]


def padded(graph: QdqGraph, node: onnx.NodeProto, source: QuantizedTensor) -> tuple[Window, int]:
    """Return a Pad as the window of a copy, and the int8 padding value; raise `UnsupportedError` for unsupported attributes."""
    if attribute(node, "mode", "constant") != "constant" or (len(node.input) > 3 and node.input[3]):
        raise UnsupportedError("the NPU supports Pad with a constant and without axes only")
    pads = graph.constant(node.input[1])
    value = graph.number(node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
    if pads is None or value is None:
        raise UnsupportedError("its padding is computed, not a constant")
    around = [int(count) for count in pads]
    if len(around) == 6:
        around = [*around[:2], 0, *around[2:5], 0, around[5]]
    if len(around) != 8 or min(around) < 0 or any(around[axis] for axis in (0, 1, 4, 5)):
        raise UnsupportedError(f"the NPU pads rows and columns by 0 or more, not by {around}")
    border = np.clip(np.rint(value / source.scale) + source.zero_point, -128, 127)
    return Window(top=around[2], left=around[3]), int(border)


def with_border(layer: PoolingLayer, pad: Layer) -> PoolingLayer | None:
    """Merge a Pad into the pooling that follows; return None if they do not form one window."""
    window = layer.window
    if not isinstance(pad, PoolingLayer) or pad.border is None or pad.result.name != layer.source.name:
        return None
    if _reaches_padding(window, layer.source, layer.result):
        return None
    is_plain = (pad.source.scale, pad.source.zero_point) == (pad.result.scale, pad.result.zero_point)
    if not is_plain or pad.stage.output != Range(pad.result.zero_point):
        return None
    around = replace(window, top=pad.window.top, left=pad.window.left)
    return replace(layer, source=pad.source, window=around, border=pad.border)


def first_channels(node: onnx.NodeProto, sources: Sequence[QuantizedTensor], whole: QuantizedTensor, columns: int) -> list[int]:
    """Return the first channel of each operand of a Concat.

    Raises:
        UnsupportedError: the axis is not the channels, the planes differ, or a first channel is not a multiple of `columns`.
    """
    axis, rank = int(attribute(node, "axis", 1)), 2 if whole.flat else 3 if whole.line else 4
    if axis not in (1, 1 - rank) or any((source.flat, source.line) != (whole.flat, whole.line) for source in sources):
        raise UnsupportedError("the NPU concatenates channels only")
    if any((source.height, source.width) != (whole.height, whole.width) for source in sources):
        raise UnsupportedError("the NPU concatenates planes of equal size, or vectors")
    firsts = [sum(before.channels for before in sources[:number]) for number in range(len(sources))]
    if any(first % columns for first in firsts):
        raise UnsupportedError(
            f"its tensors begin at channels {', '.join(map(str, firsts))}, but each must begin at a multiple of {columns}"
        )
    return firsts


def average_stage(source: QuantizedTensor, result: QuantizedTensor, window: Window, output: Range) -> OutputStage:
    """Return the stage of an average: a sum over the window; the requantization divides, with one rounding."""
    count = window.rows * window.columns
    return _uniform_stage(source, result, output, bias=-count * source.zero_point, factor=source.scale / (count * result.scale))


def maximum_stage(source: QuantizedTensor, result: QuantizedTensor, output: Range) -> OutputStage:
    """Return the stage of a maximum: the value is rescaled if the scales differ."""
    return _uniform_stage(source, result, output, bias=-source.zero_point, factor=source.scale / result.scale)


def copy_stage(source: QuantizedTensor, result: QuantizedTensor, output: Range) -> OutputStage:
    """Return the stage of a copy: the maximum of a window of one position."""
    return maximum_stage(source, result, output)


def _uniform_stage(source: QuantizedTensor, result: QuantizedTensor, output: Range, *, bias: int, factor: float) -> OutputStage:
    channels = source.channels
    return OutputStage(bias=np.full(channels, bias, np.int64), factors=np.full(channels, factor), output=output)


def _weighted_stage(
    kernel: _Kernel, bias: npt.NDArray[np.int64], source: QuantizedTensor, result: QuantizedTensor, output: Range
) -> OutputStage:
    per_channel = kernel.integers.reshape(len(kernel.integers), -1)
    folded = bias - source.zero_point * per_channel.sum(axis=1)
    reach = 128 * np.abs(per_channel).sum(axis=1) + np.abs(folded)
    if np.any(reach >= 1 << 31):
        channel = int(np.argmax(reach))
        raise ModelError(
            f"the sums of output channel {channel} must stay below 2^31, but could reach {int(reach[channel])}; "
            "use a smaller bias or fewer weights"
        )
    return OutputStage(bias=folded, factors=source.scale * kernel.factors / result.scale, output=output)


@dataclass(frozen=True, slots=True, eq=False)
class _Kernel:
    """Weights: int8 elements, their shifted integers, the shifts of block-scaled weights, and the real factor per channel."""

    elements: Int8
    integers: npt.NDArray[np.int64]
    factors: npt.NDArray[np.float64]
    shifts: Int8 | None = None


def _kernel(graph: QdqGraph, node: onnx.NodeProto, arrange: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> _Kernel:
    """Read a layer's weights, int8 per channel or block-scaled, arranged as [outputs, inputs, rows, columns]."""
    blocks = graph.blocked_weights(node.input[1])
    if blocks is None:
        weights, scale = graph.weights(node.input[1])
        elements = _checked_weights(arrange(weights), scale)
        return _Kernel(elements, elements.astype(np.int64), _channel_scales(scale, len(elements)))
    elements, exponents = (arrange(values) for values in blocks)
    if elements.ndim != 4:
        raise UnsupportedError(f"the NPU convolves over one or two axes, not {elements.ndim - 2}")
    shifted = shift_weights(_checked_elements(elements), exponents)
    return _Kernel(shifted.elements, shifted.integers(), np.exp2(shifted.bases.astype(np.float64)), shifted.shifts)


def _checked_weights(weights: npt.NDArray[np.integer], scale: Scale) -> Int8:
    if weights.dtype != np.int8 or np.any(scale.zero_point != 0):
        raise UnsupportedError(
            f"its weights are {weights.dtype} with zero points up to {int(np.abs(scale.zero_point.astype(int)).max())}; "
            "the NPU supports symmetric int8"
        )
    return _checked_elements(weights)


def _checked_elements(weights: npt.NDArray[np.integer]) -> Int8:
    if np.any(weights == -128):
        raise ModelError("weights must be between -127 and 127, but one is -128; quantize with scheme npu-int8")
    return weights.astype(np.int8)


def _channel_scales(scale: Scale, channels: int) -> npt.NDArray[np.float64]:
    values = scale.scale.astype(np.float64).reshape(-1)
    if values.size not in (1, channels):
        raise UnsupportedError(f"its weights have {values.size} scales for {channels} output channels")
    return np.broadcast_to(values, channels).copy()


def _real_bias(graph: QdqGraph, node: onnx.NodeProto, channels: int) -> npt.NDArray[np.float64]:
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels)
    real = graph.constant(node.input[2])
    if real is None:
        integers, scale = graph.weights(node.input[2])
        real = integers.astype(np.float64) * scale.scale.astype(np.float64)
    return np.broadcast_to(real.astype(np.float64).reshape(-1), channels)


def _biased(kernel: _Kernel, bias: npt.NDArray[np.float64]) -> tuple[_Kernel, npt.NDArray[np.int64]]:
    """Convert the bias from steps of the input to units of the accumulators; return the adjusted kernel and the bias.

    The scale of the weights determines the unit. In a pruned filter, all of whose weights are zero, that scale is arbitrary and
    may be much coarser than the bias, so another factor is chosen.
    """
    pruned = ~kernel.elements.reshape(len(bias), -1).any(axis=1) & (bias != 0)
    factors = np.where(pruned, np.abs(bias) / BIAS_OF_PRUNED, kernel.factors)
    return replace(kernel, factors=factors), np.rint(bias / factors).astype(np.int64)


def _dense(kernel: _Kernel, groups: int) -> _Kernel:
    """Return a grouped kernel as a dense one, with zeros between the groups."""
    if kernel.shifts is not None and kernel.shifts.any():
        raise UnsupportedError("the NPU does not support block-scaled weights in groups that are not depthwise")
    elements = kernel.elements
    outputs, inputs = len(elements) // groups, elements.shape[1]
    dense = np.zeros((len(elements), inputs * groups, *elements.shape[2:]), np.int8)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        dense[rows, group * inputs : (group + 1) * inputs] = elements[rows]
    return _Kernel(dense, dense.astype(np.int64), kernel.factors)


def _window(node: onnx.NodeProto, source: QuantizedTensor, result: QuantizedTensor, kernel: tuple[int, int]) -> Window:
    planes, results = (source.height, source.width), (result.height, result.width)
    steps, dilations = (_per_axis(attribute(node, name, [1, 1])) for name in ("strides", "dilations"))
    steps = [step if size > 1 else 1 for step, size in zip(steps, results, strict=True)]  # one result takes no step
    reaches = [(results[axis] - 1) * steps[axis] + (kernel[axis] - 1) * dilations[axis] + 1 for axis in (0, 1)]
    before = [_pad_before(node, axis, planes[axis], reaches[axis]) for axis in (0, 1)]
    if (
        max(*planes, *results) > _LARGEST_PLANE
        or max(kernel) > _HIGHEST["kernel_rows"]
        or max(*steps, *dilations) > _HIGHEST["row_step"]
    ):
        raise UnsupportedError(
            f"the NPU supports planes of up to {_LARGEST_PLANE} rows, kernels of up to {_HIGHEST['kernel_rows']}, "
            f"strides and dilations of up to {_HIGHEST['row_step']}"
        )
    return Window(
        rows=kernel[0],
        columns=kernel[1],
        row_step=steps[0],
        column_step=steps[1],
        row_dilation=dilations[0],
        column_dilation=dilations[1],
        top=before[0],
        left=before[1],
    )


def _per_axis(sizes: Sequence[int]) -> list[int]:
    """Return the sizes of rows and columns; an operator over one axis has a row of size 1."""
    return [1, int(sizes[0])] if len(sizes) == 1 else [int(size) for size in sizes]


def _pad_before(node: onnx.NodeProto, axis: int, size: int, reach: int) -> int:
    """Return the padding before a plane of `size` rows or columns, for windows that span `reach` of them.

    Padding after the plane is not needed, because all reads outside the plane are padding.
    """
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = attribute(node, "pads", [0, 0, 0, 0])
        return int(([0, pads[0]] if len(pads) == 2 else pads)[axis])
    if mode == "VALID":
        return 0
    total = max(0, reach - size)
    return total // 2 if mode == "SAME_UPPER" else total - total // 2


def _reaches_padding(window: Window, source: QuantizedTensor, result: QuantizedTensor) -> bool:
    last_row = (result.height - 1) * window.row_step + (window.rows - 1) * window.row_dilation - window.top
    last_column = (result.width - 1) * window.column_step + (window.columns - 1) * window.column_dilation - window.left
    return window.top > 0 or window.left > 0 or last_row >= source.height or last_column >= source.width
