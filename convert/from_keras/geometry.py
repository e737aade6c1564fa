"""TensorFlow's padding as ONNX attributes.

`padding="same"` gives an output of ceil(input / stride) and puts the odd row and column at the end. `auto_pad=SAME_UPPER` is
equivalent, and is used if the input's size is unknown; the passes replace it where the size does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convert.from_keras.call import Call


def convolution_padding(call: Call, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> dict[str, Any]:
    """Return the attributes of a Conv, for a layer with `valid`, `same` or `causal` padding."""
    kernel, strides, dilations = _axes(call, kernel), _axes(call, strides), _axes(call, dilations)
    shape = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    extent = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if call.layer.padding == "causal":
        return {**shape, "pads": [*(size - 1 for size in extent), *(0 for _ in extent)]}
    return {**shape, **_padding(call, extent, strides)}


def pooling_padding(call: Call) -> dict[str, Any]:
    """Return the attributes of a MaxPool or AveragePool."""
    kernel, strides = _axes(call, call.layer.pool_size), _axes(call, call.layer.strides)
    return {"kernel_shape": kernel, "strides": strides, **_padding(call, kernel, strides)}


def transposed_padding(call: Call) -> dict[str, Any]:
    """Return the attributes of a ConvTranspose; its output is input * stride with `same` padding, and uncropped with `valid`."""
    layer = call.layer
    if layer.output_padding is not None:
        raise call.unsupported("output_padding is not supported")
    kernel, strides, dilations = (_axes(call, sizes) for sizes in (layer.kernel_size, layer.strides, layer.dilation_rate))
    extent = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    cropped = [max(size - stride, 0) if layer.padding == "same" else 0 for size, stride in zip(extent, strides, strict=True)]
    missing = [max(stride - size, 0) for size, stride in zip(extent, strides, strict=True)]
    return {
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": [*(total // 2 for total in cropped), *(total - total // 2 for total in cropped)],
        "output_padding": missing,
    }


def _padding(call: Call, extent: Sequence[int], strides: Sequence[int]) -> dict[str, Any]:
    if call.layer.padding == "valid":
        return {"pads": [0] * (2 * len(extent))}
    sizes = call.only.shape[1:-1]
    if None in sizes:
        return {"auto_pad": "SAME_UPPER"}
    needed = [
        (-(-size // stride) - 1) * stride + length - size
        for size, length, stride in zip([int(size or 0) for size in sizes], extent, strides, strict=True)
    ]
    # Only TensorFlow's 3-D kernels centre windows that skip entries; one skipped entry rounds to none.
    if len(needed) == 3 and min(needed) < -1:
        raise call.unsupported(
            "padding='same' with strides that skip more than one entry of a volume; use a separate padding layer"
        )
    totals = [max(total, 0) for total in needed]
    return {"pads": [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]}


def _axes(call: Call, sizes: int | Sequence[int]) -> list[int]:
    """Return one size per spatial axis; 1-D layers may have a plain number."""
    return [int(sizes)] * (call.only.rank - 2) if isinstance(sizes, int) else [int(size) for size in sizes]
