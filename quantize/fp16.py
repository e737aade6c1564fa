"""fp16: half the bytes, the same labels; inputs and outputs of the graph stay float32.

A number beyond the range of half precision becomes infinity or zero; other converters silently change it to a different number.
half_rules.py selects the operators whose numbers fit; the others stay float32.

If rounding changes a predicted label of the samples, or an input of zeros gives NaN, the smallest number of last operators that
prevents it stays float32 too. The search ends after half of the operators, or a minute; then all are float16, and a line says so.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from accel.backends.onnxruntime_cpu import load_graph
from accel.comparison import compare_outputs, run_all
from accel.first_run import FirstRuns
from accel.golden import TIES
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import LayerKind
from edgewright.errors import ModelError
from edgewright.graphs.bodies import bodies, inner_nodes
from edgewright.graphs.dead_code import remove_dead
from edgewright.progress import Progress, silent
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.crashes import operator_kinds, without_crash
from quantize.half_rules import captured_weights, half_inputs, halvable
from quantize.scheme import float_graph, read_float_graph, write_variant_graph
from quantize.weights.editing import FreshNames
from quantize.zero_inputs import broken_output

SEARCH_LIMIT_S = 60.0
"""Time after which no further number of operators in float32 is tried."""

log = logging.getLogger(__name__)


def make_fp16(
    build: BuildDirectory,
    samples: Samples,
    folder: Path,
    *,
    reference: Tensors,
    first_runs: FirstRuns,
    progress: Progress = silent,
) -> None:
    """Write the fp16 variant of a build's graph into `folder`.

    Raises:
        ModelError: no operator of the graph can run in half precision, or onnxruntime crashes on it.
    """
    ranges = tensor_ranges(ObservedGraph.open(float_graph(build), progress=progress), samples)
    model = read_float_graph(build)
    names = halvable(model.graph, ranges, model.opset_imports[""])
    if not names:
        operators = sorted({node.op_type for node in read_float_graph(build).graph})
        raise ModelError(f"{build.path}: fp16 needs operators that run in half precision, but the graph has {operators}")

    def crash_with(halved: list[str]) -> str | None:
        _write(build, folder, halved)
        return first_runs.crash_of(folder / LayerKind.GRAPH.file_name)

    names = without_crash(operator_kinds(build), names, crash_with, where=build.path)
    ends_at = time.monotonic() + SEARCH_LIMIT_S
    for kept in _attempts(len(names)):
        if time.monotonic() > ends_at:
            break
        if crash_with(names[: len(names) - kept]) is None and not _changes_results(build, samples, reference, folder):
            log.info("converted to float16 operators=%d kept_in_float32=%d", len(names) - kept, kept)
            return
    log.warning("labels change with half of the operators in float32, too: all %d operators are float16", len(names))
    _write(build, folder, names)


def _attempts(count: int) -> list[int]:
    """Return the numbers of last operators to try in float32: 0, then powers of two up to half of them."""
    return [0, *(1 << power for power in range(count.bit_length()) if 2 << power <= count)]


def _write(build: BuildDirectory, folder: Path, halved: list[str]) -> None:
    model = read_float_graph(build)
    _to_half(model, set(halved))
    remove_dead(model)
    write_variant_graph(build, model, folder)


def _changes_results(build: BuildDirectory, samples: Samples, reference: Tensors, folder: Path) -> bool:
    """Return True if a label changes, or an output is not finite for an input of zeros."""
    session = load_graph(folder / LayerKind.GRAPH.file_name)
    agreement = compare_outputs(reference, run_all(session, samples), build.record.outputs).agreement
    if agreement is not None and agreement < 1.0 - TIES:
        return True
    return broken_output(session, load_graph(float_graph(build)), samples) is not None


def _to_half(model: ir.Model, names: set[str]) -> None:
    """Convert the nodes called `names` to half precision, with a Cast between nodes of different precision."""
    graph, opset = model.graph, model.opset_imports[""]
    precisions = _Precisions(graph)
    for node in list(graph):
        half = node.name in names
        halved_places = half_inputs(node, opset) if half else []
        for place, value in enumerate(node.inputs):
            if value is None or value.dtype is not ir.DataType.FLOAT:
                continue
            if value.const_value is None:
                node.replace_input_with(place, precisions.value(value, node, half=place in halved_places))
            elif place in halved_places:
                node.replace_input_with(place, precisions.weight(value))
        precisions.keep_float_inside(node, half_weights=half)
        if half and not bodies(node):
            precisions.halved.update(value for value in node.outputs if value.dtype is ir.DataType.FLOAT)
    for value in precisions.halved:
        value.dtype = ir.DataType.FLOAT16
    for place, output in enumerate(graph.outputs):
        if output in precisions.halved:
            graph.outputs[place] = _float_output(graph, output, precisions.names)


class _Precisions:
    """The values in half precision so far, and one cast or halved weight per value that needs it."""

    def __init__(self, graph: ir.Graph) -> None:
        self.halved: set[ir.Value] = set()
        self.names = FreshNames(graph)
        self._graph = graph
        self._casts: dict[ir.Value, ir.Value] = {}
        self._weights: dict[ir.Value, ir.Value] = {}
        self._floats: dict[ir.Value, ir.Value] = {}

    def value(self, value: ir.Value, user: ir.Node, *, half: bool) -> ir.Value:
        """Return `value` in the precision of its consumer."""
        if (value in self.halved) is half:
            return value
        if value not in self._casts:
            self._casts[value] = self._cast(value, ir.DataType.FLOAT16 if half else ir.DataType.FLOAT, user)
        return self._casts[value]

    def keep_float_inside(self, node: ir.Node, *, half_weights: bool) -> None:
        """Give the bodies of a Loop, an If or a Scan float32 values of the outer graph, from weights stored in half precision."""
        stored = set(captured_weights(node)) if half_weights else set()
        for inner in inner_nodes(node):
            for place, value in enumerate(inner.inputs):
                if value in self.halved or value in stored:
                    inner.replace_input_with(place, self._as_float(value, node))
        for body in [*bodies(node), *(body for inner in inner_nodes(node) for body in bodies(inner))]:
            for place, output in enumerate(body.outputs):
                if output in self.halved:
                    body.outputs[place] = self._as_float(output, node)

    def _as_float(self, value: ir.Value, user: ir.Node) -> ir.Value:
        if value not in self._floats:
            source = value if value in self.halved else self.weight(value)
            self._floats[value] = self._casts.get(value) or self._cast(source, ir.DataType.FLOAT, user)
        return self._floats[value]

    def weight(self, value: ir.Value) -> ir.Value:
        """Return a weight in half precision."""
        if value not in self._weights:
            self._weights[value] = _half_weight(self._graph, value, self.names.fresh(f"{value.name}/half"))
        return self._weights[value]

    def _cast(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        kind = "half" if dtype is ir.DataType.FLOAT16 else "float"
        name = self.names.fresh(f"{value.name}/to_{kind}")
        node = ir.node("Cast", [value], attributes={"to": int(dtype)}, name=name)
        self._graph.insert_before(user, node)
        node.outputs[0].name, node.outputs[0].shape = name, value.shape
        node.outputs[0].type = ir.TensorType(dtype)
        return node.outputs[0]


def _half_weight(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    tensor = value.const_value
    if tensor is None:
        raise AssertionError(f"{value.name} is not a weight")

    def halved() -> ir.Tensor:
        numbers: npt.NDArray[np.float16] = tensor.numpy().astype(np.float16)
        return ir.tensor(numbers, name=name)

    lazy = ir.LazyTensor(halved, ir.DataType.FLOAT16, ir.Shape(tensor.shape.numpy()), name=name)
    weight = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=lazy)
    graph.register_initializer(weight)
    return weight


def _float_output(graph: ir.Graph, output: ir.Value, names: FreshNames) -> ir.Value:
    """Replace a half-precision output of the graph with a float32 one of the same name."""
    name = str(output.name)
    output.name = names.fresh(f"{name}/half")
    node = ir.node("Cast", [output], attributes={"to": int(ir.DataType.FLOAT)}, name=names.fresh(f"{name}/to_float"))
    graph.append(node)
    result = node.outputs[0]
    result.name, result.shape, result.type = name, output.shape, ir.TensorType(ir.DataType.FLOAT)
    return result
