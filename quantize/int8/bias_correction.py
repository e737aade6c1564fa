"""Bias correction: rounding weights and clipping activations moves the mean of a layer's output; the bias can move it back.

A layer is linear, so the mean of its output is its output for the mean of its input. One pass over the samples collects
the mean input of every layer, as it is and as the quantizer rounds it; then each layer runs twice on means alone, once with its
own weights and once with rounded ones, and the difference goes into the bias.

Whether that helps is measured: a layer keeps its new bias only if the signal-to-noise ratio behind it rises. The verdict on a
layer depends on what comes before it and not on what comes behind, so training the head again leaves the featurizer as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgewright.contracts.samples import Samples, Tensors
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.histograms import Range
from quantize.calibration.sqnr import Observed, evenly_spaced, tensor_sqnr
from quantize.calibration.thresholds import LEVELS
from quantize.int8.qdq import layers, quantized_graph, rounded_weight, set_weight, weight_of

BIASED = {"Conv", "Gemm"}
BATCH_AXIS = 0
SHIFT_SAMPLES = 1024
"""The mean of a layer is learnt from at most so many."""

Array = npt.NDArray[np.float32]
Shift = dict[str, Array]


def correct_biases(
    model: onnx.ModelProto,
    watched: ObservedGraph,
    ranges: Mapping[str, Range],
    samples: Samples,
    rounding: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
    watch: Callable[[onnx.ModelProto], Observed] = ObservedGraph,
) -> dict[str, Array]:
    """Correct the biases of `model` in place; return what the bias was before, of each layer whose noise fell.

    `rounding` quantizes a graph (in `ranges`), `watch` runs one as the target will: both decide what noise is.
    """
    candidates = [node for node in layers(model) if _can_be_corrected(model, node)]
    if not candidates:
        return {}
    rounding = rounding or partial(quantized_graph, ranges=ranges)
    plain = rounding(model)
    shifts = _shifts(model, plain, candidates, watched, ranges, evenly_spaced(samples, SHIFT_SAMPLES))
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    _apply(corrected, candidates, shifts)
    before = tensor_sqnr(watched, watch(plain), samples)
    after = tensor_sqnr(watched, watch(rounding(corrected)), samples)
    helped = [node for node in candidates if _visible(model, node, after) > _visible(model, node, before)]
    originals = {node.name: weight_of(model, node.input[2]).copy() for node in helped}
    _apply(model, helped, shifts)
    logging.getLogger(__name__).info("corrected biases=%d of=%d", len(helped), len(candidates))
    return originals


def _can_be_corrected(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    biases = [other.input[2] for other in model.graph.node if other.op_type in BIASED and len(other.input) > 2]
    initializers = {tensor.name for tensor in model.graph.initializer}
    return (
        node.op_type in BIASED
        and len(node.input) > 2
        and node.input[2] in initializers
        and biases.count(node.input[2]) == 1
        and weight_of(model, node.input[2]).ndim == 1
    )


def _shifts(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    candidates: Sequence[onnx.NodeProto],
    watched: ObservedGraph,
    ranges: Mapping[str, Range],
    samples: Samples,
) -> Shift:
    """Return what to add to the bias of each layer that was quantized."""
    means = _means(watched, samples, [node.input[0] for node in candidates], ranges)
    found = {}
    for node in candidates:
        rounded = rounded_weight(quantized, node.input[1])
        if rounded is not None:
            exact, rough = means[node.input[0]]
            weight = weight_of(model, node.input[1])
            found[node.name] = _per_channel(_run(node, exact, weight) - _run(node, rough, rounded.reshape(weight.shape)))
    return found


def _means(
    watched: ObservedGraph, samples: Samples, tensors: Sequence[str], ranges: Mapping[str, Range]
) -> dict[str, tuple[Array, Array]]:
    """Return the mean of each tensor over the samples, as it is and as the quantizer rounds it."""
    names = sorted(set(tensors))
    sums: dict[str, list[Array]] = {}
    count = 0
    for values in watched.values(samples, names, "correcting biases"):
        count += _add(values, sums, ranges)
    share = np.float32(1 / count)
    return {name: (exact * share, rough * share) for name, (exact, rough) in sums.items()}


def _add(values: Tensors, sums: dict[str, list[Array]], ranges: Mapping[str, Range]) -> int:
    for name, array in values.items():
        exact = array.sum(axis=BATCH_AXIS, keepdims=True)
        rough = _rounded(array, ranges[name]).sum(axis=BATCH_AXIS, keepdims=True)
        before = sums.get(name)
        sums[name] = [exact, rough] if before is None else [before[0] + exact, before[1] + rough]
    return len(next(iter(values.values())))


def _rounded(array: Array, bounds: Range) -> Array:
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    step = (high - low) / (LEVELS - 1) or 1.0
    zero = np.rint(-low / step)
    rounded: Array = ((np.clip(np.rint(array / step) + zero, 0, LEVELS - 1) - zero) * step).astype(np.float32)
    return rounded


def _run(node: onnx.NodeProto, mean: Array, weight: Array) -> Array:
    """Run one layer alone, without its bias, on one sample."""
    import onnxruntime

    alone = helper.make_node(node.op_type, ["mean", "weight"], ["out"])
    alone.attribute.extend(node.attribute)
    graph = helper.make_graph(
        [alone],
        "layer",
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, mean.shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(weight, np.float32), "weight")],
    )
    layer = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(layer.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"mean": mean})[0]
    return found


def _per_channel(output: Array) -> Array:
    mean: Array = output.mean(axis=tuple(place for place in range(output.ndim) if place != 1))
    return mean


def _apply(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], shifts: Shift) -> None:
    for node in nodes:
        if node.name in shifts:
            set_weight(model, node.input[2], weight_of(model, node.input[2]) + shifts[node.name])


def _visible(model: onnx.ModelProto, node: onnx.NodeProto, noise: Mapping[str, float]) -> float:
    """Return the ratio behind a layer, or behind its activation where the quantizer merged the two."""
    name = node.output[0]
    if name in noise:
        return noise[name]
    followers = [user.output[0] for user in model.graph.node if name in user.input]
    return next((noise[follower] for follower in followers if follower in noise), float("-inf"))
