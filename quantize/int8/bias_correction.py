"""Bias correction: quantization shifts the mean of a layer's output, and a new bias compensates for it.

A layer is linear, so the mean of its output is its output for the mean of its input. One pass over the samples collects the mean
input of every layer, exact and as the quantizer rounds it. Then each layer runs on both means, with its own and with its rounded
weights, and the difference is added to the bias.

A layer keeps its new bias only if the measured SQNR after it increases. That depends on the layers before it and not on those
after it, so a retrained head leaves the featurizer unchanged.
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
from edgewright.steps import step
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.histograms import Range
from quantize.calibration.sqnr import Observed, evenly_spaced, tensor_sqnr
from quantize.calibration.thresholds import LEVELS
from quantize.int8.qdq import layers, quantized_graph, rounded_weight, set_weight, weight_of

BIASED = {"Conv", "Gemm"}
BATCH_AXIS = 0
SHIFT_SAMPLES = 1024
"""Largest number of samples for the mean of a layer."""

Array = npt.NDArray[np.float32]
Shift = dict[str, Array]


@step("bias correction")
def correct_biases(
    model: onnx.ModelProto,
    observed: ObservedGraph,
    ranges: Mapping[str, Range],
    samples: Samples,
    *,
    rounding: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
    observe: Callable[[onnx.ModelProto], Observed] = ObservedGraph,
) -> dict[str, Array]:
    """Correct the biases of `model` in place; return the original bias of each layer whose SQNR increased.

    `rounding` quantizes a graph with `ranges`, and `observe` runs one as the target does; the SQNR is measured with both.
    """
    candidates = [node for node in layers(model) if _can_be_corrected(model, node)]
    if not candidates:
        return {}
    rounding = rounding or partial(quantized_graph, ranges=ranges)
    plain = rounding(model)
    shifts = _shifts(model, plain, candidates, observed=observed, ranges=ranges, samples=evenly_spaced(samples, SHIFT_SAMPLES))
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    _apply(corrected, candidates, shifts)
    before = tensor_sqnr(observed, observe(plain), samples)
    after = tensor_sqnr(observed, observe(rounding(corrected)), samples)
    improved = [node for node in candidates if _sqnr_after(model, node, after) > _sqnr_after(model, node, before)]
    originals = {node.name: weight_of(model, node.input[2]).copy() for node in improved}
    _apply(model, improved, shifts)
    logging.getLogger(__name__).info("corrected biases=%d of=%d", len(improved), len(candidates))
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
    *,
    observed: ObservedGraph,
    ranges: Mapping[str, Range],
    samples: Samples,
) -> Shift:
    """Return the shift of the bias of each quantized layer, shape [channels]."""
    means = _means(observed, samples, [node.input[0] for node in candidates], ranges)
    shifts = {}
    for node in candidates:
        rounded = rounded_weight(quantized, node.input[1])
        if rounded is not None:
            exact, rounded_mean = means[node.input[0]]
            weight = weight_of(model, node.input[1])
            shifts[node.name] = _per_channel(_run(node, exact, weight) - _run(node, rounded_mean, rounded.reshape(weight.shape)))
    return shifts


def _means(
    observed: ObservedGraph, samples: Samples, tensors: Sequence[str], ranges: Mapping[str, Range]
) -> dict[str, tuple[Array, Array]]:
    """Return the mean of each tensor over the samples, exact and as the quantizer rounds it."""
    names = sorted(set(tensors))
    sums: dict[str, list[Array]] = {}
    count = 0
    for values in observed.values(samples, names, "correcting biases"):
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


@step("a run of one layer in onnxruntime")
def _run(node: onnx.NodeProto, mean: Array, weight: Array) -> Array:
    """Run a single layer on one sample, without its bias."""
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
    output: Array = session.run(None, {"mean": mean})[0]
    return output


def _per_channel(output: Array) -> Array:
    mean: Array = output.mean(axis=tuple(place for place in range(output.ndim) if place != 1))
    return mean


def _apply(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], shifts: Shift) -> None:
    for node in nodes:
        if node.name in shifts:
            set_weight(model, node.input[2], weight_of(model, node.input[2]) + shifts[node.name])


def _sqnr_after(model: onnx.ModelProto, node: onnx.NodeProto, sqnr_db: Mapping[str, float]) -> float:
    """Return the SQNR after a layer, or after its activation if the quantizer merged the two."""
    name = node.output[0]
    if name in sqnr_db:
        return sqnr_db[name]
    followers = [user.output[0] for user in model.graph.node if name in user.input]
    return next((sqnr_db[follower] for follower in followers if follower in sqnr_db), float("-inf"))
