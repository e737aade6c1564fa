"""Rules for operators that change the shape of a tensor, or repeat and reorder its contents."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from convert.from_tflite.call import Call, Rule

_REFLECT = 0
"""Value of the schema's `MirrorPadMode`; the other one is SYMMETRIC."""


def _reshape(call: Call) -> ir.Value:
    return call.node("Reshape", call.value(0), _target(call))


def _target(call: Call) -> ir.Value:
    """Return the new shape; it is a constant where at most one axis is free, whatever the file computes it from."""
    shape = list(call.output.shape)
    free = [axis for axis, size in enumerate(shape) if size is None]
    given = call.tensor(0).shape
    if not free and given and given[0] is None:
        return call.integers("shape", _with_free_batch(call, [int(size or 0) for size in shape]))
    if len(free) <= 1 and (free or not call.has(1) or call.is_constant(1)):
        return call.integers("shape", [-1 if size is None else size for size in shape])
    return call.indices(1)


def _with_free_batch(call: Call, shape: list[int]) -> list[int]:
    """Return a shape that the file gives for one sample, for any number of samples."""
    if shape and shape[0] == 1 and -1 not in shape:
        return [-1, *shape[1:]]
    raise call.unsupported(f"its result must have an axis for the samples, but the shape is {shape}")


def _squeeze(call: Call) -> ir.Value:
    axes = [int(axis) for axis in call.options.squeezeDims if axis is not None] if _squeezed_axes(call) else []
    axes = axes or [axis for axis, size in enumerate(call.tensor(0).shape) if size == 1]
    return call.node("Squeeze", call.value(0), call.integers("axes", axes)) if axes else call.value(0)


def _squeezed_axes(call: Call) -> bool:
    return call.options is not None and call.options.squeezeDims is not None


def _expand_dims(call: Call) -> ir.Value:
    return call.node("Unsqueeze", call.value(0), call.integers("axes", call.constant(1).reshape(-1)))


def _transpose(call: Call) -> ir.Value:
    return call.node("Transpose", call.value(0), perm=[int(axis) for axis in call.constant(1)])


def _pad(call: Call) -> ir.Value:
    pads = call.constant(1)
    fill = call.value(2) if call.operator.kind == "PADV2" else call.like(0, 0.0)
    return call.node("Pad", call.value(0), _pads(call, pads), fill)


def _mirror_pad(call: Call) -> ir.Value:
    pads = call.constant(1)
    if call.options.mode == _REFLECT:
        return call.node("Pad", call.value(0), _pads(call, pads), mode="reflect")
    value = call.value(0)
    for axis, (before, after) in enumerate(pads.tolist()):
        size = call.tensor(0).shape[axis]
        if not (before or after):
            continue
        if size is None:
            raise call.unsupported(f"axis {axis} must have a fixed size")
        order = np.pad(np.arange(size), [(before, after)], mode="symmetric")
        value = call.node("Gather", value, call.integers("order", order), axis=axis)
    return value


def _pads(call: Call, pads: np.ndarray) -> ir.Value:
    return call.integers("pads", [*pads[:, 0], *pads[:, 1]])


def _pack(call: Call) -> ir.Value:
    axis = call.options.axis % len(call.output.shape)
    axes = call.integers("axes", [axis])
    parts = [call.node("Unsqueeze", call.value(number), axes) for number in range(call.count)]
    return call.node("Concat", *parts, axis=axis)


def _unpack(call: Call) -> list[ir.Value]:
    count = len(call.operator.outputs)
    return [call.node("Gather", call.value(0), call.integers("index", part), axis=call.options.axis) for part in range(count)]


def _tile(call: Call) -> ir.Value:
    return call.node("Tile", call.value(0), call.indices(1))


def _broadcast_to(call: Call) -> ir.Value:
    return call.node("Expand", call.value(0), call.indices(1))


def _fill(call: Call) -> ir.Value:
    return call.node("Expand", call.value(1), call.indices(0))


def _zeros_like(call: Call) -> ir.Value:
    return call.node("Mul", call.value(0), call.like(0, 0.0))


def _shape(call: Call) -> ir.Value:
    return call.node("Cast", call.node("Shape", call.value(0)), to=int(ir.DataType.from_numpy(call.output.dtype)))


def _rank(call: Call) -> ir.Value:
    return call.network.emit.constant(f"{call.where}/rank", np.asarray(call.rank(), np.int32))


def _range(call: Call) -> ir.Value:
    return call.node("Range", call.value(0), call.value(1), call.value(2))


RULES = {
    "RESHAPE": Rule(_reshape),
    "SQUEEZE": Rule(_squeeze),
    "EXPAND_DIMS": Rule(_expand_dims),
    "TRANSPOSE": Rule(_transpose),
    "PAD": Rule(_pad),
    "PADV2": Rule(_pad),
    "MIRROR_PAD": Rule(_mirror_pad),
    "PACK": Rule(_pack),
    "UNPACK": Rule(_unpack),
    "TILE": Rule(_tile),
    "BROADCAST_TO": Rule(_broadcast_to),
    "FILL": Rule(_fill),
    "ZEROS_LIKE": Rule(_zeros_like),
    "SHAPE": Rule(_shape),
    "RANK": Rule(_rank),
    "RANGE": Rule(_range),
}
