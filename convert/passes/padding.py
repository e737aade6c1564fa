"""A pass that replaces automatic padding by explicit numbers.

onnxruntime does not run `auto_pad=SAME_UPPER` or `SAME_LOWER` together with dilations, and folding needs the numbers too. The
padding is known if the stride is 1, at any size of the image, or if the size is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgewright.errors import ModelError
from edgewright.graphs.shape_inference import infer_shapes

_SAME = ("SAME_UPPER", "SAME_LOWER")
_WINDOWED = ("Conv", "MaxPool", "AveragePool")


def write_padding(model: ir.Model) -> str:
    """Replace the automatic padding of convolutions and poolings by explicit padding.

    Raises:
        ModelError: a dilated window with a stride has automatic padding, and the size of the image is not fixed.
    """
    nodes = [node for graph in model.graphs() for node in graph if _pads_automatically(node)]
    if any(node.inputs[0] is not None and node.inputs[0].shape is None for node in nodes):
        infer_shapes(model)
    written = sum(_write(node) for node in nodes)
    return f"wrote the padding of {written} nodes as numbers" if written else ""


def _pads_automatically(node: ir.Node) -> bool:
    return node.op_type in _WINDOWED and node.domain == "" and _mode(node) in _SAME and not _flag(node, "ceil_mode")


def _write(node: ir.Node) -> bool:
    """Replace the automatic padding of a node, and return whether it is known."""
    totals = _totals(node)
    if totals is None:
        _check_runnable(node)
        return False
    before = [(total + (_mode(node) == "SAME_LOWER")) // 2 for total in totals]
    after = [total - start for total, start in zip(totals, before, strict=True)]
    node.attributes.pop("auto_pad")
    node.attributes["pads"] = ir.AttrInt64s("pads", [*before, *after])
    return True


def _totals(node: ir.Node) -> list[int] | None:
    """Return the padding of both sides together, per spatial axis; None: it depends on a size that is not fixed."""
    kernel = _kernel(node)
    if kernel is None:
        return None
    strides, dilations = (_sizes(node, name, len(kernel)) for name in ("strides", "dilations"))
    image = node.inputs[0].shape if node.inputs[0] is not None else None
    sizes = [None] * len(kernel) if image is None else [size if isinstance(size, int) else None for size in image[2:]]
    totals = []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        if size is None and stride != 1:
            return None
        covered = -1 if size is None else (-(-size // stride) - 1) * stride - size  # -1 at stride 1, whatever the size
        totals.append(max(covered + (length - 1) * dilation + 1, 0))
    return totals


def _check_runnable(node: ir.Node) -> None:
    dilations = node.attributes["dilations"].as_ints() if "dilations" in node.attributes else ()
    if any(dilation != 1 for dilation in dilations):
        raise ModelError(
            f"{node.op_type} {node.name!r} has dilations, a stride and automatic padding, which onnxruntime runs for fixed sizes "
            "only: give each axis of the input its size with --shape"
        )


def _kernel(node: ir.Node) -> Sequence[int] | None:
    if "kernel_shape" in node.attributes:
        return list(node.attributes["kernel_shape"].as_ints())
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or weight.shape is None or not weight.shape.is_static():
        return None
    return [int(size) for size in weight.shape.numpy()[2:]]


def _mode(node: ir.Node) -> str:
    return node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].as_int())


def _sizes(node: ir.Node, name: str, count: int) -> Sequence[int]:
    return node.attributes[name].as_ints() if name in node.attributes else [1] * count
