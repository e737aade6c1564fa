"""Which ONNX operator set an int8 graph is written in: 20, wherever that says the same.

From 21 on onnxruntime notes the type of integers on each QuantizeLinear that its transposition of layouts puts in. Another of
its steps, which turns int8 activations to uint8 on x86, overlooks that note, and the session is refused (seen with 1.32:
"output_dtype INT8 does not match y_zero_point type UINT8"). Nothing that a plain int8 graph needs is newer than 20.
"""

from __future__ import annotations

import onnx

OPSET = 20
_ONNX = ("", "ai.onnx")
_CHANGED_IN_21 = frozenset({"GroupNormalization"})
"""What means something else below; every other operator of 20 gained nothing but types."""
_NEW_ATTRIBUTES = frozenset({"block_size", "output_dtype"})
"""Of QuantizeLinear and DequantizeLinear."""


def lower_opset(model: onnx.ModelProto) -> None:
    """Declare a quantized `model` to be of operator set 20, unless it is older or holds something newer."""
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
