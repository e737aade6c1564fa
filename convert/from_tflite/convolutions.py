"""Rules for convolutions and pooling; they work in channels-first order."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from convert.from_tflite.call import SAME, Call, Rule
from convert.from_tflite.network import Order

_SPACE = slice(1, 3)
"""Axes of an image in the file: batch, height, width, channels."""
_VOLUME = slice(1, 4)
"""Axes of a volume in the file: batch, depth, height, width, channels."""


def _convolution(call: Call) -> ir.Value:
    options, weight = call.options, call.tensor(1).shape
    return _convolved(call, (0, 3, 1, 2), groups=_channels(call) // int(weight[3] or 1), options=options)


def _depthwise(call: Call) -> ir.Value:
    return _convolved(call, (3, 0, 1, 2), groups=_channels(call), options=call.options)


def _convolved(call: Call, axes: tuple[int, ...], *, groups: int, options: Any) -> ir.Value:
    kernel = _sizes(call.tensor(1).shape[_SPACE])
    strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    value = call.node(
        "Conv",
        call.value(0),
        call.weight(1, axes),
        *_bias(call, 2),
        kernel_shape=list(kernel),
        strides=list(strides),
        dilations=list(dilations),
        group=groups,
        **_padding(call, kernel, strides, dilations),
    )
    return call.activated(value)


def _convolution_of_volumes(call: Call) -> ir.Value:
    """Convert CONV_3D: volume, weights [depth, height, width, in, out], bias."""
    options, kernel = call.options, _sizes(call.tensor(1).shape[:3])
    strides = (options.strideD, options.strideH, options.strideW)
    dilations = (options.dilationDFactor, options.dilationHFactor, options.dilationWFactor)
    value = call.node(
        "Conv",
        call.value(0),
        call.weight(1, (4, 3, 0, 1, 2)),
        *_bias(call, 2),
        kernel_shape=list(kernel),
        strides=list(strides),
        dilations=list(dilations),
        **_padding(call, kernel, strides, dilations),
    )
    return call.activated(value)


def _transposed(call: Call) -> ir.Value:
    """Convert TRANSPOSE_CONV: output shape, weights [out, height, width, in], image, bias."""
    options, kernel = call.options, _sizes(call.tensor(1).shape[_SPACE])
    given, strides = call.tensor(2).shape[_SPACE], (options.strideH, options.strideW)
    output = [int(size) for size in call.constant(0)[_SPACE]] if call.is_constant(0) else list(call.output.shape[_SPACE])
    begins, ends, extra = [], [], []
    for size, wanted, length, stride in zip(given, output, kernel, strides, strict=True):
        if size is None or wanted is None:
            raise call.unsupported("the image must have a fixed height and width")
        total = max((size - 1) * stride + length - wanted, 0) if options.padding == SAME else 0
        begins.append(total // 2)
        ends.append(total - total // 2)
        extra.append(wanted - ((size - 1) * stride + length - total))
    value = call.node(
        "ConvTranspose",
        call.value(2),
        call.weight(1, (3, 0, 1, 2)),
        *_bias(call, 3),
        kernel_shape=list(kernel),
        strides=list(strides),
        pads=begins + ends,
        output_padding=extra,
    )
    return call.activated(value)


def _max_pool(call: Call) -> ir.Value:
    return call.activated(_pooled(call, "MaxPool"))


def _average_pool(call: Call) -> ir.Value:
    pooled = _pooled(call, "AveragePool")
    quantization = call.output.quantization
    if quantization is not None:
        count = call.options.filterHeight * call.options.filterWidth
        step, point = float(quantization.scales[0]), int(quantization.zero_points[0])
        pooled = _rounded_from_zero(call, pooled, zero=-point * step, nudge=step / (4 * count))
    return call.activated(pooled)


def _rounded_from_zero(call: Call, value: ir.Value, *, zero: float, nudge: float) -> ir.Value:
    """Move a mean away from `zero`, the number stored as 0, by less than the distance of two means.

    The interpreter rounds a mean that is halfway between two integers away from 0, but QuantizeLinear to the even one. Without
    this, one of 150 means of ResNet-8 is another integer.
    """
    zeros, nudges = (call.network.emit.floats(f"{call.where}/{name}", part) for name, part in (("zero", zero), ("nudge", nudge)))
    direction = call.node("Sign", call.node("Sub", value, zeros))
    return call.node("Add", value, call.node("Mul", direction, nudges))


def _pooled(call: Call, operator: str) -> ir.Value:
    options = call.options
    kernel, strides = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
    padding = _padding(call, kernel, strides, (1, 1))
    return call.node(operator, call.value(0), kernel_shape=list(kernel), strides=list(strides), **padding)


def _bias(call: Call, number: int) -> list[ir.Value]:
    return [call.weight(number, (0,))] if call.has(number) else []


def _channels(call: Call) -> int:
    return int(call.tensor(0).shape[3] or 1)


def _sizes(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(int(size or 1) for size in shape)


def _padding(call: Call, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> dict[str, Any]:
    """Return the attributes for the operator's padding; images of free size let the runtime compute it."""
    if call.options.padding != SAME:
        return {"pads": [0] * (2 * len(kernel))}
    begins, ends = [], []
    space = _SPACE if len(kernel) == 2 else _VOLUME
    for size, length, stride, dilation in zip(call.tensor(0).shape[space], kernel, strides, dilations, strict=True):
        reach = (length - 1) * dilation
        if stride == 1:
            total = reach
        elif size is None:
            if max(dilations) > 1:
                raise call.unsupported("the image must have a fixed height and width where strides are dilated")
            return {"auto_pad": "SAME_UPPER"}
        else:
            total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
        begins.append(total // 2)
        ends.append(total - total // 2)
    return {"pads": begins + ends}


RULES = {
    "CONV_2D": Rule(_convolution, Order.CHANNELS_FIRST),
    "DEPTHWISE_CONV_2D": Rule(_depthwise, Order.CHANNELS_FIRST),
    "CONV_3D": Rule(_convolution_of_volumes, Order.CHANNELS_FIRST),
    "TRANSPOSE_CONV": Rule(_transposed, Order.CHANNELS_FIRST),
    "AVERAGE_POOL_2D": Rule(_average_pool, Order.CHANNELS_FIRST),
    "MAX_POOL_2D": Rule(_max_pool, Order.CHANNELS_FIRST),
}
