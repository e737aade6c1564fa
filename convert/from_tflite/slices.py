"""Rules for operators that take parts of a tensor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from convert.from_tflite.call import Call, Rule

_END = np.iinfo(np.int32).max
_START = -_END


def _slice(call: Call) -> ir.Value:
    """Convert SLICE: first positions and sizes, where -1 is everything up to the end."""
    if call.is_constant(1) and call.is_constant(2):
        starts, sizes = call.constant(1), call.constant(2)
        ends = [_END if size == -1 else start + size for start, size in zip(starts, sizes, strict=True)]
        return _sliced(call, call.integers("starts", starts), call.integers("ends", ends))
    starts, sizes = call.indices(1), call.indices(2)
    rest = call.node("Equal", sizes, call.integers("rest", -1))
    ends = call.node("Where", rest, call.integers("end", _END), call.node("Add", starts, sizes))
    return _sliced(call, starts, ends)


def _sliced(call: Call, starts: ir.Value, ends: ir.Value) -> ir.Value:
    return call.node("Slice", call.value(0), starts, ends, call.integers("axes", range(call.rank())))


def _strided_slice(call: Call) -> ir.Value:
    options = call.options
    if options.ellipsisMask or options.newAxisMask:
        raise call.unsupported("an ellipsis or a new axis in the slice has no counterpart here")
    if options.offset:
        raise call.unsupported("its ends are counted from its starts")
    strides = [int(stride) for stride in call.constant(3)]
    dropped = [axis for axis in range(len(strides)) if options.shrinkAxisMask >> axis & 1]
    starts, ends = _positions(call, strides, dropped)
    axes = call.integers("axes", range(len(strides)))
    value = call.node("Slice", call.value(0), starts, ends, axes, call.integers("steps", strides))
    return call.node("Squeeze", value, call.integers("dropped", dropped)) if dropped else value


def _positions(call: Call, strides: list[int], dropped: list[int]) -> tuple[ir.Value, ir.Value]:
    options = call.options
    if not (call.is_constant(1) and call.is_constant(2)):
        if options.beginMask or options.endMask or dropped:
            raise call.unsupported("its first and last positions must be constants")
        return call.indices(1), call.indices(2)
    starts, ends = call.constant(1).tolist(), call.constant(2).tolist()
    for axis, stride in enumerate(strides):
        if axis in dropped:  # one position: the end does not count
            ends[axis] = starts[axis] + 1 if starts[axis] != -1 else _END
            continue
        if options.beginMask >> axis & 1:
            starts[axis] = 0 if stride > 0 else _END
        if options.endMask >> axis & 1:
            ends[axis] = _END if stride > 0 else _START
    return call.integers("starts", starts), call.integers("ends", ends)


def _split(call: Call) -> list[ir.Value]:
    axis, count = int(call.constant(0).reshape(-1)[0]), len(call.operator.outputs)
    size = call.tensor(1).shape[axis]
    if size is None:
        raise call.unsupported(f"axis {axis} must have a fixed size")
    return _parts(call, 1, axis, [size // count] * count)


def _split_v(call: Call) -> list[ir.Value]:
    sizes, axis = call.constant(1).tolist(), int(call.constant(2).reshape(-1)[0])
    if -1 in sizes:
        whole = call.tensor(0).shape[axis]
        if whole is None:
            raise call.unsupported(f"axis {axis} must have a fixed size")
        sizes[sizes.index(-1)] = whole - sum(sizes) - 1
    return _parts(call, 0, axis, sizes)


def _parts(call: Call, number: int, axis: int, sizes: list[int]) -> list[ir.Value]:
    ends = np.cumsum(sizes)
    value, axes = call.value(number), call.integers("axes", [axis])
    return [
        call.node("Slice", value, call.integers("starts", [end - size]), call.integers("ends", [end]), axes)
        for end, size in zip(ends, sizes, strict=True)
    ]


def _gather(call: Call) -> ir.Value:
    axis, batch = call.axis(call.options.axis), call.options.batchDims
    batch += call.rank(1) if batch < 0 else 0
    if not batch:
        return call.node("Gather", call.value(0), call.value(1), axis=axis)
    if batch != axis:
        raise call.unsupported(f"batch_dims {batch} and axis {axis} must be equal")
    positions = call.node("Unsqueeze", call.indices(1), call.integers("last", [-1]))
    return call.node("GatherND", call.value(0), positions, batch_dims=batch)


def _gather_nd(call: Call) -> ir.Value:
    return call.node("GatherND", call.value(0), call.indices(1))


def _embedding_lookup(call: Call) -> ir.Value:
    return call.node("Gather", call.value(1), call.value(0), axis=0)


def _reverse(call: Call) -> ir.Value:
    axes = [int(axis) for axis in np.atleast_1d(call.constant(1))]
    numbers = (("starts", [_END] * len(axes)), ("ends", [_START - 1] * len(axes)), ("axes", axes), ("steps", [-1] * len(axes)))
    return call.node("Slice", call.value(0), *(call.integers(name, values) for name, values in numbers))


def _one_hot(call: Call) -> ir.Value:
    both = call.node("Concat", *(_row(call, number) for number in (3, 2)), axis=0)
    return call.node("OneHot", call.indices(0), _row_of(call, call.indices(1)), both, axis=call.options.axis)


def _row(call: Call, number: int) -> ir.Value:
    return _row_of(call, call.value(number))


def _row_of(call: Call, value: ir.Value) -> ir.Value:
    return call.node("Reshape", value, call.integers("row", [1]))


RULES = {
    "SLICE": Rule(_slice),
    "STRIDED_SLICE": Rule(_strided_slice),
    "SPLIT": Rule(_split),
    "SPLIT_V": Rule(_split_v),
    "GATHER": Rule(_gather),
    "GATHER_ND": Rule(_gather_nd),
    "EMBEDDING_LOOKUP": Rule(_embedding_lookup),
    "REVERSE_V2": Rule(_reverse),
    "ONE_HOT": Rule(_one_hot),
}
