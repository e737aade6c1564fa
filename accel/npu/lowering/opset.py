"""Lower the ONNX operator set of an int8 graph to 20, if its operators mean the same there.

For operator set 21 and later, onnxruntime's layout transformation inserts QuantizeLinear nodes with an explicit integer type.
Another optimizer, which converts int8 activations to uint8 on x86, ignores that type, and the session fails (seen with 1.32:
"output_dtype INT8 does not match y_zero_point type UINT8"). A plain int8 graph needs no operator newer than 20.
"""

from __future__ import annotations

import onnx

OPSET = 20
_ONNX = ("", "ai.onnx")
_CHANGED_IN_21 = frozenset({"GroupNormalization"})
"""Operators whose meaning differs before 21; all other operators of 20 only gained types."""
_NEW_ATTRIBUTES = frozenset({"block_size", "output_dtype"})
"""Attributes of QuantizeLinear and DequantizeLinear since 21."""


def lower_opset(model: onnx.ModelProto) -> None:
    """Declare operator set 20 for a quantized `model`, unless it is older or has newer operators."""
    if all(_is_old_enough(node) for node in model.graph.node):
        for opset in model.opset_import:
            if opset.domain in _ONNX:
                opset.version = min(opset.version, OPSET)


def _is_old_enough(node: onnx.NodeProto) -> bool:
    if node.domain not in _ONNX:
        return True
    if node.op_type in _CHANGED_IN_21 or _NEW_ATTRIBUTES & {attribute.name for attribute in node.attribute}:
        return False
    try:
        onnx.defs.get_schema(node.op_type, OPSET)
    except onnx.defs.SchemaError:
        return False
    return True
