"""Rules that convert Keras layers, by class name: a rule takes a `Call` and returns the layer's output.

Padding and cropping are in geometry.py, axis orders in layouts.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_keras import activations as keras_activations
from convert.from_keras.activations import Rule, activate
from convert.from_keras.call import Call, floats_of
from convert.from_keras.geometry import convolution_padding, pooling_padding, transposed_padding
from convert.from_keras.layouts import Layout, Tensor, columns_in_order_of, rows_in_order_of
from convert.from_keras.masks import masked_average

FIRST = Layout.CHANNELS_FIRST
FLAT = Layout.FLATTENED_CHANNELS_FIRST


def _convolution(call: Call) -> Tensor:
    layer, x = call.layer, call.channels_first()
    kernel = tuple(layer.kernel.shape)
    shape = (kernel[-1], kernel[-2], *kernel[:-2])
    weight = call.weight("kernel", shape, lambda kernel: np.moveaxis(kernel, (-1, -2), (0, 1)))
    bias = (call.weight("bias", (kernel[-1],)),) if layer.use_bias else ()
    geometry = convolution_padding(call, layer.kernel_size, layer.strides, layer.dilation_rate)
    value = call.node("Conv", x.value, weight, *bias, group=int(layer.groups), **geometry)
    return activate(call, call.result(value, FIRST))


def _channelwise(call: Call, attribute: str, kernel: tuple[int, ...], *, with_bias: bool) -> Tensor:
    """Emit a depthwise convolution. Output channel c * multiplier + m is the same row of TensorFlow's and ONNX's weights."""
    layer, x = call.layer, call.channels_first()
    *space, channels, multiplier = kernel
    shape = (channels * multiplier, 1, *space)
    weight = call.weight(attribute, shape, lambda kernel: np.moveaxis(kernel, (-2, -1), (0, 1)))
    bias = (call.weight("bias", (channels * multiplier,)),) if with_bias else ()
    geometry = convolution_padding(call, layer.kernel_size, layer.strides, layer.dilation_rate)
    return call.result(call.node("Conv", x.value, weight, *bias, group=channels, **geometry), FIRST)


def _depthwise(call: Call) -> Tensor:
    kernel = tuple(call.layer.kernel.shape)
    return activate(call, _channelwise(call, "kernel", kernel, with_bias=call.layer.use_bias))


def _separable(call: Call) -> Tensor:
    layer = call.layer
    deep = _channelwise(call, "depthwise_kernel", tuple(layer.depthwise_kernel.shape), with_bias=False)
    kernel = tuple(layer.pointwise_kernel.shape)
    shape = (kernel[-1], kernel[-2], *kernel[:-2])
    weight = call.weight("pointwise_kernel", shape, lambda kernel: np.moveaxis(kernel, (-1, -2), (0, 1)))
    bias = (call.weight("bias", (kernel[-1],)),) if layer.use_bias else ()
    return activate(call, call.result(call.node("Conv", deep.value, weight, *bias, kernel_shape=list(kernel[:-2])), FIRST))


def _transposed_convolution(call: Call) -> Tensor:
    layer, x = call.layer, call.channels_first()
    kernel = tuple(layer.kernel.shape)
    shape = (kernel[-1], kernel[-2], *kernel[:-2])
    weight = call.weight("kernel", shape, lambda kernel: np.moveaxis(kernel, (-1, -2), (0, 1)))
    bias = (call.weight("bias", (kernel[-2],)),) if layer.use_bias else ()
    value = call.node("ConvTranspose", x.value, weight, *bias, **transposed_padding(call))
    return activate(call, call.result(value, FIRST))


def _dense(call: Call) -> Tensor:
    layer, x = call.layer, call.only
    features, units = layer.kernel.shape
    bias = (call.weight("bias", (units,)),) if layer.use_bias else ()
    if x.layout is FIRST:  # equivalent to a 1x1 convolution
        ones = (1,) * (x.rank - 2)
        weight = call.weight("kernel", (units, features, *ones), lambda kernel: kernel.T)
        dense = call.result(call.node("Conv", x.value, weight, *bias, kernel_shape=list(ones)), FIRST)
    elif x.rank == 2:
        weight = call.weight("kernel", (features, units), lambda kernel: rows_in_order_of(x, kernel))
        dense = call.result(call.node("Gemm", x.value, weight, *bias))
    else:
        value = call.node("MatMul", x.value, call.weight("kernel", (features, units)))
        dense = call.result(call.node("Add", value, *bias) if bias else value)
    return activate(call, dense)


def _batch_normalization(call: Call) -> Tensor:
    layer, x = call.layer, call.only
    if layer.axis % x.rank != x.rank - 1:
        raise call.unsupported(f"normalization over axis {layer.axis}; only the last axis is supported")
    if x.rank > 2:
        x = call.layouts.channels_first(x)
    size = (int(layer.moving_mean.shape[0]),)

    def per_channel(attribute: str, default: float) -> ir.Value:
        if getattr(layer, attribute) is None:
            return call.constant(attribute, np.full(size, default))
        return call.weight(attribute, size, lambda values: columns_in_order_of(x, values) if x.layout is FLAT else values)

    parameters = [per_channel("gamma", 1.0), per_channel("beta", 0.0), per_channel("moving_mean", 0.0)]
    parameters.append(per_channel("moving_variance", 1.0))
    return call.like_input(call.node("BatchNormalization", x.value, *parameters, epsilon=float(layer.epsilon)), x)


def _layer_normalization(call: Call) -> Tensor:
    layer, x = call.layer, call.native()
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if [axis % x.rank for axis in axes] != [x.rank - 1] or getattr(layer, "rms_scaling", False):
        raise call.unsupported(f"normalization over axis {layer.axis}; only the last axis is supported")
    size = (int(x.shape[-1] or 0),)
    scale = call.weight("gamma", size) if layer.scale else call.constant("gamma", np.ones(size))
    shift = (call.weight("beta", size),) if layer.center else ()
    return call.like_input(call.node("LayerNormalization", x.value, scale, *shift, axis=-1, epsilon=float(layer.epsilon)), x)


def _unit_normalization(call: Call) -> Tensor:
    axes = call.layer.axis if isinstance(call.layer.axis, list | tuple) else [call.layer.axis]
    if len(axes) != 1:
        raise call.unsupported(f"normalization over axes {list(axes)}; only one axis is supported")
    x = call.native() if call.only.layout is FLAT else call.only
    return call.like_input(call.node("LpNormalization", x.value, axis=x.axis(axes[0]), p=2), x)


def _layer_scale(call: Call) -> Tensor:
    return call.broadcast("Mul", call.only, "gamma", floats_of(call.layer.gamma))


def _rescaling(call: Call) -> Tensor:
    scaled = call.broadcast("Mul", call.only, "scale", floats_of(call.layer.scale))
    offset = floats_of(call.layer.offset)
    return call.broadcast("Add", scaled, "offset", offset) if np.any(offset) else scaled


def _normalization(call: Call) -> Tensor:
    layer = call.layer
    mean = floats_of(layer.mean)
    deviation = np.maximum(np.sqrt(floats_of(layer.variance)), 1e-7)  # Keras limits the deviation likewise, for constant features
    if layer.invert:
        return call.broadcast("Add", call.broadcast("Mul", call.only, "deviation", deviation), "mean", mean)
    return call.broadcast("Div", call.broadcast("Sub", call.only, "mean", mean), "deviation", deviation)


def merging(operator: str) -> Rule:
    """Return the rule that combines all inputs with a binary operator."""

    def merge(call: Call) -> Tensor:
        first, *others = _aligned(call)
        value = first.value
        for other in others:
            value = call.node(operator, value, other.value)
        return call.result(value, first.layout) if first.layout is not FLAT else call.like_input(value, first)

    return merge


def _average(call: Call) -> Tensor:
    total = merging("Add")(call)
    return call.broadcast("Mul", total, "share", 1 / len(call.inputs))


def _concatenate(call: Call) -> Tensor:
    inputs = [call.layouts.native(x) if x.layout is FLAT else x for x in call.inputs]
    if any(x.layout is FIRST for x in inputs):
        inputs = [call.layouts.channels_first(x) for x in inputs]
    axis = inputs[0].axis(call.layer.axis)
    return call.result(call.node("Concat", *(x.value for x in inputs), axis=axis), inputs[0].layout)


def _aligned(call: Call) -> list[Tensor]:
    """Return the inputs of an element-wise layer with the same layout and rank, as Keras broadcasts them."""
    if len({(x.layout, x.rank, x.image) for x in call.inputs}) == 1:
        return list(call.inputs)
    ranks = {x.rank for x in call.inputs}
    if len(ranks) == 1 and ranks != {2}:
        return [call.layouts.channels_first(x) for x in call.inputs]
    native = [call.layouts.native(x) for x in call.inputs]
    return [_widened(call, x, max(ranks)) for x in native]


def _widened(call: Call, x: Tensor, rank: int) -> Tensor:
    if x.rank == rank:
        return x
    axes = list(range(1, 1 + rank - x.rank))
    return Tensor(call.node("Unsqueeze", x.value, call.integers("axes", axes)), (x.shape[0], *(1 for _ in axes), *x.shape[1:]))


def _pooling(operator: str) -> Rule:
    return lambda call: call.result(call.node(operator, call.channels_first().value, **pooling_padding(call)), FIRST)


def _global_pooling(operator: str) -> Rule:
    def pool(call: Call) -> Tensor:
        if call.mask is not None:
            return masked_average(call, call.mask)
        value = call.node(operator, call.channels_first().value)
        return call.result(value, FIRST) if call.layer.keepdims else call.result(call.node("Flatten", value, axis=1))

    return pool


def _zero_padding(call: Call) -> Tensor:
    x, pairs = call.channels_first(), _pairs(call.layer.padding)
    pads = [0, 0, *(before for before, _ in pairs), 0, 0, *(after for _, after in pairs)]
    return call.result(call.node("Pad", x.value, call.integers("pads", pads)), FIRST)


def _cropping(call: Call) -> Tensor:
    x, pairs = call.channels_first(), _pairs(call.layer.cropping)
    ends = [-after if after else np.iinfo(np.int64).max for _, after in pairs]
    starts = call.integers("starts", [before for before, _ in pairs])
    axes = call.integers("axes", range(2, 2 + len(pairs)))
    return call.result(call.node("Slice", x.value, starts, call.integers("ends", ends), axes), FIRST)


def _pairs(sides: Any) -> list[tuple[int, int]]:
    """Return (before, after) per axis; 1-D layers have a plain pair."""
    return [sides] if isinstance(sides[0], int) else [(before, after) for before, after in sides]


def _up_sampling(call: Call) -> Tensor:
    x = call.channels_first()
    interpolation = getattr(call.layer, "interpolation", "nearest")
    if interpolation not in ("nearest", "bilinear"):
        raise call.unsupported(f"{interpolation=}; only nearest and bilinear are supported")
    factors = np.atleast_1d(call.layer.size)
    scales = call.constant("scales", [1.0, 1.0, *factors])
    mode = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if interpolation == "nearest":
        mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return call.result(call.node("Resize", x.value, None, scales, **mode), FIRST)


def _flatten(call: Call) -> Tensor:
    x = call.only
    if x.rank == 2:
        return x
    *space, channels = x.shape[1:]
    if x.layout is FIRST and channels != 1 and any(size != 1 for size in space):
        if None in x.shape[1:]:
            x = call.layouts.native(x)
        else:
            image = tuple(int(size or 0) for size in x.shape[1:])
            return Tensor(call.node("Flatten", x.value, axis=1), call.output_shape, FLAT, image)
    return call.result(call.node("Flatten", x.value, axis=1))


def _reshape(call: Call) -> Tensor:
    sizes = call.output_shape[1:]
    if sum(size is None for size in sizes) > 1:
        raise call.unsupported("more than one axis of the result is unknown; give the model's input a fixed shape")
    target = [0 if None in sizes else -1, *(-1 if size is None else size for size in sizes)]
    if len(sizes) > 1 and all(size == 1 for size in sizes[:-1]):  # one spatial position: channels first is the same order
        target = [target[0], target[-1], *target[1:-1]]
        return call.result(call.node("Reshape", call.native().value, call.integers("shape", target)), FIRST)
    return call.result(call.node("Reshape", call.native().value, call.integers("shape", target)))


def _permute(call: Call) -> Tensor:
    x = call.only if call.only.layout is FIRST else call.native()
    order = [0, *(x.axis(axis) for axis in call.layer.dims)]
    return call.result(x.value if order == sorted(order) else call.node("Transpose", x.value, perm=order))


def _repeat_vector(call: Call) -> Tensor:
    row = call.node("Unsqueeze", call.native().value, call.integers("axes", [1]))
    return call.result(call.node("Tile", row, call.integers("repeats", [1, int(call.layer.n), 1])))


def _unchanged(call: Call) -> Tensor:
    return call.only


_ONLY_IN_TRAINING = [
    "ActivityRegularization",
    "AlphaDropout",
    "AugMix",
    "AutoContrast",
    "CutMix",
    "Dropout",
    "Equalization",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "RandAugment",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomPerspective",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "StochasticDepth",
]


def _ranks(name: str, rule: Rule, ranks: str = "123") -> dict[str, Rule]:
    return {f"{name}{rank}D": rule for rank in ranks}


RULES: dict[str, Rule] = {
    **keras_activations.LAYERS,
    **_ranks("Conv", _convolution),
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "Conv1DTranspose": _transposed_convolution,
    "Conv2DTranspose": _transposed_convolution,
    "Dense": _dense,
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "UnitNormalization": _unit_normalization,
    "LayerScale": _layer_scale,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Add": merging("Add"),
    "Subtract": merging("Sub"),
    "Multiply": merging("Mul"),
    "Maximum": merging("Max"),
    "Minimum": merging("Min"),
    "Average": _average,
    "Concatenate": _concatenate,
    **_ranks("MaxPooling", _pooling("MaxPool")),
    **_ranks("AveragePooling", _pooling("AveragePool")),
    **_ranks("GlobalMaxPooling", _global_pooling("GlobalMaxPool")),
    **_ranks("GlobalAveragePooling", _global_pooling("GlobalAveragePool")),
    **_ranks("ZeroPadding", _zero_padding),
    **_ranks("Cropping", _cropping),
    "UpSampling1D": _up_sampling,
    "UpSampling2D": _up_sampling,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat_vector,
    **dict.fromkeys(_ONLY_IN_TRAINING, _unchanged),
}
"""Rules by class name."""
