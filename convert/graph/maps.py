"""Turn maps from class to probability, which scikit-learn and LightGBM exporters add at the end of a graph, into tensors.

skl2onnx and onnxmltools end classifiers with the operator ZipMap unless they are told not to. Its input has the same
probabilities as a tensor, one column per class in the order of the map's keys.
"""

from __future__ import annotations

import onnx

from convert.graph.emit import BATCH_AXIS

_KEYS = ("classlabels_int64s", "classlabels_strings")
_CLASSES = (*_KEYS, "classlabels_ints")
"""Attributes of ZipMap and of the classifiers of ONNX-ML."""


def class_labels(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Return the classes that the classifiers of `graph` and its ZipMap name; none if they name different ones."""
    named = {
        tuple(value.decode() if isinstance(value, bytes) else str(value) for value in onnx.helper.get_attribute_value(attribute))
        for node in graph.node
        for attribute in node.attribute
        if attribute.name in _CLASSES and (node.op_type == "ZipMap" or node.op_type.endswith("Classifier"))
    } - {()}
    classes = next(iter(named), ())
    return classes if len(named) == 1 and len(classes) > 1 and _has_scores(graph, len(classes)) else ()


def _has_scores(graph: onnx.GraphProto, count: int) -> bool:
    """Return True if an output of floats, or of maps, has one score per class."""
    for value in graph.output:
        if not value.type.HasField("tensor_type"):
            return True
        tensor = value.type.tensor_type
        last = tensor.shape.dim[-1].dim_value if len(tensor.shape.dim) else 0
        if tensor.elem_type == onnx.TensorProto.FLOAT and (last in (0, count) or last + 1 == count == 2):
            return True
    return False


def has_maps(graph: onnx.GraphProto) -> bool:
    """Return True if an output of `graph` is a map of a ZipMap."""
    return bool(_zip_maps(graph))


def replace_maps(graph: onnx.GraphProto) -> None:
    """Replace each ZipMap whose maps are an output of `graph` by the tensor that it takes, under the name of the maps."""
    outputs = {value.name: value for value in graph.output}
    for node in _zip_maps(graph):
        tensor = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [BATCH_AXIS, _class_count(node)])
        outputs[node.output[0]].type.CopyFrom(tensor)
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]


def _zip_maps(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    outputs = {value.name for value in graph.output}
    return [node for node in graph.node if node.op_type == "ZipMap" and node.output[0] in outputs]


def _class_count(node: onnx.NodeProto) -> int:
    keys = (onnx.helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name in _KEYS)
    return max(map(len, keys), default=0)
