"""Fold inputs with few channels, because an RGB image would use only 3 of 16 columns of the array.

The host stores the pixels under each row of the kernel side by side, so the kernel's columns become channels (a partial im2col).
An input is folded if that reduces the number of visits, and if it has no other consumers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from accel.npu.lowering.layers import ConvolutionLayer, Layer, QuantizedTensor, Window
from accel.npu.profile import NpuProfile
from accel.npu.tensors import ColumnFold


def fold_inputs(
    layers: Sequence[Layer], inputs: Sequence[QuantizedTensor], outputs: Iterable[QuantizedTensor], profile: NpuProfile
) -> tuple[list[Layer], dict[str, ColumnFold]]:
    """Return the layers with folded convolutions, and the fold of each input that has one."""
    names = {tensor.name for tensor in inputs} - {tensor.name for tensor in outputs}
    folded, folds = list(layers), {}
    for place, layer in enumerate(layers):
        if not isinstance(layer, ConvolutionLayer) or layer.source.name not in names:
            continue
        if _readers(layer.source.name, layers) == 1 and _reduces_visits(layer, profile.columns):
            folded[place] = _folded(layer)
            folds[layer.source.name] = ColumnFold(
                kernel=layer.window.columns,
                step=layer.window.column_step,
                dilation=layer.window.column_dilation,
                left=layer.window.left,
                width=layer.result.width,
            )
    return folded, folds


def _readers(name: str, layers: Sequence[Layer]) -> int:
    sources = [layer.source.name for layer in layers]
    addends = [layer.stage.addend.tensor.name for layer in layers if layer.stage.addend]
    return sources.count(name) + addends.count(name)


def _reduces_visits(layer: ConvolutionLayer, columns: int) -> bool:
    channels, kernel = layer.source.channels, layer.window.columns
    visits_now = -(-channels // columns) * kernel
    has_blocks = layer.shifts is not None and bool(layer.shifts.any())
    return not layer.depthwise and not has_blocks and -(-channels * kernel // columns) < visits_now


def _folded(layer: ConvolutionLayer) -> ConvolutionLayer:
    source, window = layer.source, layer.window
    outputs, channels, rows, columns = layer.weights.shape
    side_by_side = layer.weights.transpose(0, 3, 1, 2).reshape(outputs, columns * channels, rows, 1)
    return replace(
        layer,
        source=replace(source, channels=channels * columns, width=layer.result.width),
        window=Window(rows=rows, row_step=window.row_step, row_dilation=window.row_dilation, top=window.top),
        weights=np.ascontiguousarray(side_by_side),
        shifts=None,
    )
