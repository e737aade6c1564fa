"""Cross-layer equalization: equalize the channels between two layers, so that one range fits all of them.

Dividing a channel at the output of the first layer and multiplying it at the input of the second changes nothing in float, if the
operators between them scale with their input (ReLU and pooling do, ReLU6 does not). Each channel gets the scale at which the
weights of both layers have the same largest magnitude (Nagel et al., 2019). Pairs across the cut between featurizer and head are
skipped, because a retrained head must not change the featurizer.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from quantize.int8.qdq import WEIGHTED, layers, set_weight, weight_of

ROUNDS = 10
SETTLED = 1e-3
LARGEST_SCALE = 1e3
"""Limit for channels with almost no weights."""

_SCALES_WITH_ITS_INPUT = {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity"}
Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers: the second is the only consumer of the first and has no other input."""

    first: onnx.NodeProto
    second: onnx.NodeProto


def equalize(model: onnx.ModelProto, *, apart: Collection[str | None]) -> int:
    """Equalize every pair of layers in `model`, in place; return the number of pairs.

    Nodes called `apart` form pairs only with each other.
    """
    pairs = [pair for pair in _pairs(model) if (pair.first.name in apart) == (pair.second.name in apart)]
    for _ in range(ROUNDS):
        if max([_equalize(model, pair) for pair in pairs], default=0.0) < SETTLED:
            break
    logging.getLogger(__name__).info("equalized pairs=%d", len(pairs))
    return len(pairs)


def _pairs(model: onnx.ModelProto) -> list[Pair]:
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    layer_names = {node.name for node in layers(model) if _owns_its_weights(node, users)}
    return [
        Pair(first, second)
        for first in model.graph.node
        if first.name in layer_names and _out_axis(first) is not None
        for second in [_next_layer(first, users, outputs)]
        if second is not None and second.name in layer_names and _in_axis(model, second) is not None
    ]


def _owns_its_weights(node: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]]) -> bool:
    return all(len(users[name]) == 1 for name in node.input[1:] if name)


def _next_layer(node: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]], outputs: set[str]) -> onnx.NodeProto | None:
    while True:
        following = users.get(node.output[0], [])
        if len(following) != 1 or node.output[0] in outputs or following[0].input[0] != node.output[0]:
            return None
        node = following[0]
        if node.op_type in WEIGHTED:
            return node
        if node.op_type not in _SCALES_WITH_ITS_INPUT:
            return None


def _equalize(model: onnx.ModelProto, pair: Pair) -> float:
    """Scale one pair; return the largest distance of a scale from 1, as a logarithm."""
    first = _magnitudes(weight_of(model, pair.first.input[1]), _out_axis(pair.first))
    second = _magnitudes(weight_of(model, pair.second.input[1]), _in_axis(model, pair.second))
    if len(first) != len(second):
        return 0.0
    nonzero = (first > 0) & (second > 0)
    ratio = np.divide(first, second, out=np.ones_like(first), where=nonzero)
    scale: Array = np.clip(np.sqrt(ratio), 1 / LARGEST_SCALE, LARGEST_SCALE).astype(np.float32)
    inverse: Array = np.reciprocal(scale)
    _multiply(model, pair.first.input[1], inverse, _out_axis(pair.first))
    if len(pair.first.input) > 2 and pair.first.input[2]:
        _multiply(model, pair.first.input[2], inverse, -1)
    _multiply(model, pair.second.input[1], scale, _in_axis(model, pair.second))
    return float(np.abs(np.log(scale)).max())


def _out_axis(node: onnx.NodeProto) -> int | None:
    """Return the axis of the output channels in the weights of a layer; None for operators without one."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return None


def _in_axis(model: onnx.ModelProto, node: onnx.NodeProto) -> int | None:
    """Return the axis of the input channels; in a depthwise convolution it is that of the output channels."""
    if node.op_type == "Gemm":
        return 1 if _attribute(node, "transB", 0) else 0
    if node.op_type != "Conv":
        return None
    group = _attribute(node, "group", 1)
    if group == 1:
        return 1
    return 0 if group == weight_of(model, node.input[1]).shape[0] else None


def _magnitudes(weight: Array, axis: int | None) -> Array:
    if axis is None:
        raise AssertionError("pairs have plain axes")
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest: Array = np.abs(weight).max(axis=others)
    return largest


def _multiply(model: onnx.ModelProto, name: str, scale: Array, axis: int | None) -> None:
    weight = weight_of(model, name)
    shape = [1] * weight.ndim
    shape[-1 if axis is None else axis] = -1
    set_weight(model, name, weight * scale.reshape(shape))


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
