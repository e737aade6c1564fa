"""fp16: half the bytes, the same labels; inputs and outputs of the graph stay float32.

A number beyond the range of half precision becomes infinity, or in other converters silently another number. So operators stay
float32 if their weights or values (on real samples) are near the limit, or if they sum many terms or exponentiate.

If rounding changes a predicted label of the samples, the last operators stay float32 too, as few as keep the labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from accel.backends.onnxruntime_cpu import load_graph
from accel.comparison import compare_outputs, run_all
from accel.golden import TIES
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import LayerKind, TensorSpec
from edgewright.errors import ModelError
from edgewright.graphs.dead_code import remove_dead
from edgewright.progress import Progress, silent
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.scheme import float_graph, read_float_graph, write_variant_graph

log = logging.getLogger(__name__)

LARGEST = float(np.finfo(np.float16).max)
MARGIN = 4.0
"""The values of the samples must stay below the limit by this factor, because other samples may be larger."""

FLOAT32_OPERATORS = {
    "Cast",
    "CumSum",
    "Exp",
    "LayerNormalization",
    "LogSoftmax",
    "NonMaxSuppression",
    "Pow",
    "Range",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
    "RoiAlign",
    "Softmax",
    "TopK",
}
_FLOAT_INPUTS = {"Resize": {1, 2}}
"""Inputs that are always float32 in the ONNX standard."""


def make_fp16(build: BuildDirectory, samples: Samples, folder: Path, *, reference: Tensors, progress: Progress = silent) -> None:
    """Write the fp16 variant of a build's graph into `folder`.

    Raises:
        ModelError: no operator of the graph can run in half precision.
    """
    ranges = tensor_ranges(ObservedGraph.open(float_graph(build), progress=progress), samples)
    names = [str(node.name) for node in read_float_graph(build).graph if _can_be_half(node, ranges)]
    if not names:
        operators = sorted({node.op_type for node in read_float_graph(build).graph})
        raise ModelError(f"{build.path}: fp16 needs operators that run in half precision, but the graph has {operators}")
    for kept in _attempts(len(names)):
        _write(build, folder, names[: len(names) - kept])
        if not _changes_labels(samples, reference, build.record.outputs, folder):
            log.info("converted to float16 operators=%d kept_in_float32=%d", len(names) - kept, kept)
            return
    _write(build, folder, names)


def _attempts(count: int) -> list[int]:
    """Return the numbers of last operators to try in float32: 0, then powers of two up to half of them."""
    return [0, *(1 << power for power in range(count.bit_length()) if 2 << power <= count)]


def _write(build: BuildDirectory, folder: Path, halved: list[str]) -> None:
    model = read_float_graph(build)
    _to_half(model, set(halved))
    remove_dead(model)
    write_variant_graph(build, model, folder)


def _changes_labels(samples: Samples, reference: Tensors, specs: Sequence[TensorSpec], folder: Path) -> bool:
    outputs = run_all(load_graph(folder / LayerKind.GRAPH.file_name), samples)
    agreement = compare_outputs(reference, outputs, specs).agreement
    return agreement is not None and agreement < 1.0 - TIES


def _can_be_half(node: ir.Node, ranges: dict[str, tuple[float, float]]) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type in FLOAT32_OPERATORS:
        return False
    floats = [value for value in (*node.inputs, *node.outputs) if value is not None and value.dtype is ir.DataType.FLOAT]
    largest = max((_largest(value, ranges) for value in floats), default=0.0)
    if largest > LARGEST / MARGIN:
        log.info("kept in float32 node=%s largest_value=%g", node.name, largest)
        return False
    return bool(floats)


def _largest(value: ir.Value, ranges: dict[str, tuple[float, float]]) -> float:
    if value.const_value is not None:
        numbers = value.const_value.numpy()
        return float(np.abs(numbers).max()) if numbers.size else 0.0
    return max(map(abs, ranges.get(str(value.name), (0.0, 0.0))))


def _to_half(model: ir.Model, names: set[str]) -> None:
    """Convert the nodes called `names` to half precision, with a Cast between nodes of different precision."""
    graph = model.graph
    precisions = _Precisions(graph)
    for node in list(graph):
        half = node.name in names
        for place, value in enumerate(node.inputs):
            if value is None or value.dtype is not ir.DataType.FLOAT or place in _FLOAT_INPUTS.get(node.op_type, ()):
                continue
            if value.const_value is None:
                node.replace_input_with(place, precisions.value(value, node, half=half))
            elif half:
                node.replace_input_with(place, precisions.weight(value))
        if half:
            precisions.halved.update(value for value in node.outputs if value.dtype is ir.DataType.FLOAT)
    for value in precisions.halved:
        value.dtype = ir.DataType.FLOAT16
    for place, output in enumerate(graph.outputs):
        if output in precisions.halved:
            graph.outputs[place] = _float_output(graph, output)


class _Precisions:
    """The values in half precision so far, and one cast or halved weight per value that needs it."""

    def __init__(self, graph: ir.Graph) -> None:
        self.halved: set[ir.Value] = set()
        self._graph = graph
        self._casts: dict[ir.Value, ir.Value] = {}
        self._weights: dict[ir.Value, ir.Value] = {}

    def value(self, value: ir.Value, user: ir.Node, *, half: bool) -> ir.Value:
        """Return `value` in the precision of its consumer."""
        if (value in self.halved) is half:
            return value
        if value not in self._casts:
            self._casts[value] = _cast(self._graph, value, ir.DataType.FLOAT16 if half else ir.DataType.FLOAT, user)
        return self._casts[value]

    def weight(self, value: ir.Value) -> ir.Value:
        """Return a weight in half precision."""
        if value not in self._weights:
            self._weights[value] = _half_weight(self._graph, value)
        return self._weights[value]


def _half_weight(graph: ir.Graph, value: ir.Value) -> ir.Value:
    tensor = value.const_value
    if tensor is None:
        raise AssertionError(f"{value.name} is not a weight")
    name = f"{value.name}/half"

    def halved() -> ir.Tensor:
        numbers: npt.NDArray[np.float16] = tensor.numpy().astype(np.float16)
        return ir.tensor(numbers, name=name)

    lazy = ir.LazyTensor(halved, ir.DataType.FLOAT16, ir.Shape(tensor.shape.numpy()), name=name)
    weight = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=lazy)
    graph.register_initializer(weight)
    return weight


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
    kind = "half" if dtype is ir.DataType.FLOAT16 else "float"
    node = ir.node("Cast", [value], attributes={"to": int(dtype)}, name=f"{value.name}/to_{kind}")
    graph.insert_before(user, node)
    node.outputs[0].name, node.outputs[0].shape = node.name, value.shape
    node.outputs[0].type = ir.TensorType(dtype)
    return node.outputs[0]


def _float_output(graph: ir.Graph, output: ir.Value) -> ir.Value:
    """Replace a half-precision output of the graph with a float32 one of the same name."""
    name = str(output.name)
    output.name = f"{name}/half"
    node = ir.node("Cast", [output], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{name}/to_float")
    graph.append(node)
    result = node.outputs[0]
    result.name, result.shape, result.type = name, output.shape, ir.TensorType(ir.DataType.FLOAT)
    return result
