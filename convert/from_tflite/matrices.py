"""Rules for products of matrices."""

from __future__ import annotations

import onnx_ir as ir

from convert.from_tflite.call import Call, Rule


def _fully_connected(call: Call) -> ir.Value:
    """Convert FULLY_CONNECTED: rows, weights [out, in], bias."""
    if call.options.weightsFormat != 0:
        raise call.unsupported("its weights are shuffled for a processor; convert the model again without that")
    rows = call.value(0)
    columns = call.tensor(1).shape[1]
    if not call.options.keepNumDims and (call.rank() != 2 or call.tensor(0).shape[1] != columns):
        rows = call.node("Reshape", rows, call.integers("rows", [-1, columns]))
    weight = call.weight(1, (1, 0)) if call.is_constant(1) else call.node("Transpose", call.value(1), perm=[1, 0])
    if not call.has(2):
        return call.activated(call.node("MatMul", rows, weight))
    if call.options.keepNumDims and call.rank() != 2:
        return call.activated(call.node("Add", call.node("MatMul", rows, weight), call.value(2)))
    return call.activated(call.node("Gemm", rows, weight, call.value(2)))


def _batch_matmul(call: Call) -> ir.Value:
    first, second = call.value(0), call.value(1)
    first = _swapped(call, first, call.rank(0)) if call.options.adjX else first
    second = _swapped(call, second, call.rank(1)) if call.options.adjY else second
    return call.node("MatMul", first, second)


def _swapped(call: Call, value: ir.Value, rank: int) -> ir.Value:
    return call.node("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


RULES = {"FULLY_CONNECTED": Rule(_fully_connected), "BATCH_MATMUL": Rule(_batch_matmul)}
