"""Rules for operators that move or resample pixels."""

from __future__ import annotations

import onnx_ir as ir

from convert.from_tflite.call import Call, Rule
from convert.from_tflite.network import Order


def _bilinear(call: Call) -> ir.Value:
    return _resized(call, mode="linear")


def _nearest(call: Call) -> ir.Value:
    rounded = call.options.alignCorners or call.options.halfPixelCenters
    return _resized(call, mode="nearest", nearest_mode="round_prefer_ceil" if rounded else "floor")


def _resized(call: Call, **attributes: str) -> ir.Value:
    options = call.options
    if options.alignCorners and options.halfPixelCenters:
        raise call.unsupported("align_corners and half_pixel_centers exclude each other")
    coordinates = "align_corners" if options.alignCorners else "half_pixel" if options.halfPixelCenters else "asymmetric"
    sizes = call.node("Concat", _batch_and_channels(call), call.indices(1), axis=0)
    return call.node("Resize", call.value(0), None, None, sizes, coordinate_transformation_mode=coordinates, **attributes)


def _batch_and_channels(call: Call) -> ir.Value:
    """Return the sizes that a resampling keeps; onnxruntime 1.32 cannot infer the shape from the others with `axes` alone."""
    batch, *_, channels = call.tensor(0).shape
    if batch is not None and channels is not None:
        return call.integers("kept", [batch, channels])
    return call.node("Shape", call.value(0), start=0, end=2)


def _space_to_depth(call: Call) -> ir.Value:
    return call.node("SpaceToDepth", call.value(0), blocksize=call.options.blockSize)


def _depth_to_space(call: Call) -> ir.Value:
    return call.node("DepthToSpace", call.value(0), blocksize=call.options.blockSize, mode="DCR")


def _space_to_batch(call: Call) -> ir.Value:
    """Pad, cut each axis of space into blocks, and move the positions within a block to the batch."""
    blocks, pads = [int(block) for block in call.constant(1)], call.constant(2)
    sizes, (depth, rest) = _image(call, len(blocks)), _trailing(call, len(blocks))
    begins, ends = ([0, *(int(pad[side]) for pad in pads), *[0] * len(rest)] for side in (0, 1))
    padded = call.node("Pad", call.value(0), call.integers("pads", [*begins, *ends]), call.like(0, 0.0))
    cut = [size + int(sum(pad)) for size, pad in zip(sizes, pads, strict=True)]
    shape = [-1, *(part for size, block in zip(cut, blocks, strict=True) for part in (size // block, block)), *rest]
    inner = [2 + 2 * axis for axis in range(depth)]
    outer = [1 + 2 * axis for axis in range(depth)]
    after = list(range(1 + 2 * depth, len(shape)))
    value = call.node("Reshape", padded, call.integers("blocks", shape))
    value = call.node("Transpose", value, perm=[*inner, 0, *outer, *after])
    smaller = [size // block for size, block in zip(cut, blocks, strict=True)]
    return call.node("Reshape", value, call.integers("shape", [-1, *smaller, *rest]))


def _batch_to_space(call: Call) -> ir.Value:
    """Undo `_space_to_batch`: move the positions back from the batch, and crop."""
    blocks, crops = [int(block) for block in call.constant(1)], call.constant(2)
    sizes, (depth, rest) = _image(call, len(blocks)), _trailing(call, len(blocks))
    value = call.node("Reshape", call.value(0), call.integers("blocks", [*blocks, -1, *sizes, *rest]))
    pairs = [part for axis in range(depth) for part in (depth + 1 + axis, axis)]
    after = list(range(2 * depth + 1, 2 * depth + 1 + len(rest)))
    value = call.node("Transpose", value, perm=[depth, *pairs, *after])
    larger = [size * block for size, block in zip(sizes, blocks, strict=True)]
    value = call.node("Reshape", value, call.integers("shape", [-1, *larger, *rest]))
    starts = [int(crop[0]) for crop in crops]
    ends = [size - int(crop[1]) for size, crop in zip(larger, crops, strict=True)]
    axes = list(range(1, depth + 1))
    parameters = [call.integers(name, numbers) for name, numbers in (("starts", starts), ("ends", ends), ("axes", axes))]
    return call.node("Slice", value, *parameters)


def _image(call: Call, depth: int) -> list[int]:
    sizes = call.tensor(0).shape[1 : depth + 1]
    if any(size is None for size in sizes):
        raise call.unsupported("the image must have a fixed height and width")
    return [int(size or 0) for size in sizes]


def _trailing(call: Call, depth: int) -> tuple[int, list[int]]:
    return depth, [int(size or 1) for size in call.tensor(0).shape[depth + 1 :]]


RULES = {
    "RESIZE_BILINEAR": Rule(_bilinear, Order.CHANNELS_FIRST),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_nearest, Order.CHANNELS_FIRST),
    "SPACE_TO_DEPTH": Rule(_space_to_depth, Order.CHANNELS_FIRST),
    "DEPTH_TO_SPACE": Rule(_depth_to_space, Order.CHANNELS_FIRST),
    "SPACE_TO_BATCH_ND": Rule(_space_to_batch),
    "BATCH_TO_SPACE_ND": Rule(_batch_to_space),
}
