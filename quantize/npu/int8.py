"""npu-int8: the integers that the NPU computes with (docs/spec/npu.md), corrected with the NPU's own rounding.

calibrate   the range of every tensor
quantize    activations int8 per tensor with a zero point; weights int8 per output channel, symmetric in [-127, 127]; operators
            after the build's cut stay float, because they run on the host; sums fit in 32 bits (overflow_guard.py)
correct     biases, if the SQNR on the NPU's functional model increases (int8/bias_correction.py, functional.py)

The graph is plain ONNX that onnxruntime runs too. `edgewright compile` compiles it to a program.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import onnx

from accel.npu.compiler.compile import check_something_runs
from accel.npu.lowering.functions import OF_ONE_TENSOR, OF_SEVERAL_TENSORS
from accel.npu.lowering.lower import lower
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples
from edgewright.errors import ModelError
from edgewright.progress import Progress, silent
from hardware_profiles.hardware_profile import Int8Types
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.calibration.histograms import Range
from quantize.calibration.sqnr import Observed
from quantize.int8.bias_correction import correct_biases
from quantize.int8.canonical import canonicalize
from quantize.int8.equalize import equalize
from quantize.int8.int8 import Int8Settings, write_int8
from quantize.int8.qdq import WEIGHTED, QdqFormat, quantized_graph
from quantize.npu.functional import ObservedNpuGraph
from quantize.npu.overflow_guard import guard_accumulators
from quantize.scheme import FloatFallback, QuantizationResult, float_graph, head_nodes

MORE_OPERATORS = frozenset(
    {*OF_ONE_TENSOR, *OF_SEVERAL_TENSORS, "GlobalMaxPool", "ReduceMax", "ReduceMean"}.difference(("Mul", "Sigmoid", "LeakyRelu"))
)
"""Operators that the NPU supports, in some places, and for which onnxruntime has no integer kernels."""


def make_npu_int8(
    build: BuildDirectory, samples: Samples, folder: Path, settings: Int8Settings, *, progress: Progress = silent
) -> QuantizationResult:
    """Write the npu-int8 variant of a build's graph into `folder`.

    Raises:
        ModelError: no operator of the graph can run on the NPU; the message has the reason for each.
    """
    return make_for_npu(
        build, samples, folder, settings, lambda quantized, _model: guard_accumulators(quantized), progress=progress
    )


def make_for_npu(
    build: BuildDirectory,
    samples: Samples,
    folder: Path,
    settings: Int8Settings,
    finish: Callable[[onnx.ModelProto, onnx.ModelProto], onnx.ModelProto],
    *,
    progress: Progress = silent,
) -> QuantizationResult:
    """Write a variant with int8 activations; `finish` converts the weights, given the int8 graph and the float one.

    Raises:
        ModelError: no operator of the graph can run on the NPU; the message has the reason for each.
    """
    model = onnx.load(float_graph(build))
    canonicalize(model)
    head = {str(name) for name in head_nodes(build)} if _is_cut(build) else set()
    if settings.equalize:
        equalize(model, apart=head)
    observed = ObservedGraph(model, progress=progress)
    ranges = tensor_ranges(observed, samples, settings.calibration)

    form = QdqFormat(types=Int8Types.S8S8, more_operators=MORE_OPERATORS, from_inputs=True, float_islands=False)
    in_float = _kept_float(model, ranges, head, form)

    def rounding(graph: onnx.ModelProto) -> onnx.ModelProto:
        return finish(quantized_graph(graph, ranges, in_float, form), graph)

    if settings.correct_bias:
        correct_biases(model, observed, ranges, samples, rounding=rounding, observe=_on_npu)
    quantized = rounding(model)
    result = QuantizationResult(_host_fallbacks(quantized, head), model)
    write_int8(build, quantized, folder, for_processors=False)
    return result


def _kept_float(model: onnx.ModelProto, ranges: Mapping[str, Range], head: Collection[str], form: QdqFormat) -> frozenset[str]:
    """Return the head and the operators without weights that stay on the host: rounding them gains nothing there.

    A later segment without weights stays on the host as well: it saves nothing, and rounds such values as a variance.

    Raises:
        ModelError: no operator can run on the NPU; the message has the reason for each.
    """
    kept = frozenset(head)
    while True:
        quantized = quantized_graph(model, ranges, kept, form)
        if not any(node.op_type == "QuantizeLinear" for node in quantized.graph.node):
            operators = ", ".join(f"{node.name} ({node.op_type})" for node in model.graph.node)
            raise ModelError(f"at least one layer must run on the NPU, but it supports none of {operators}")
        lowered = lower(guard_accumulators(quantized))
        check_something_runs(lowered)
        worth_rounding = {1, *(row.segment for row in lowered.coverage if row.on_npu and row.operator in WEIGHTED)}
        on_host = {
            row.layer
            for row in lowered.coverage
            if row.operator not in WEIGHTED and (not row.on_npu or row.segment not in worth_rounding)
        }
        if on_host <= kept:
            return kept
        kept |= on_host


def _is_cut(build: BuildDirectory) -> bool:
    """Return True if there is a head; a cut before the first operator gives the whole graph to the NPU."""
    return build.record.cut is not None and build.record.cut.featurizer_nodes > 0


def _on_npu(quantized: onnx.ModelProto) -> Observed:
    """Return the graph on the functional model, or on onnxruntime if it is too large for the model."""
    try:
        return ObservedNpuGraph(quantized)
    except ModelError as error:
        logging.getLogger(__name__).warning("corrected biases with onnxruntime instead of the NPU's rounding: %s", error)
        return ObservedGraph(quantized)


def _host_fallbacks(quantized: onnx.ModelProto, head: set[str]) -> tuple[FloatFallback, ...]:
    lowered = lower(quantized)
    check_something_runs(lowered)
    return tuple(
        FloatFallback(
            node=row.layer,
            operator=row.operator,
            reason="it is after the cut: the head runs on the host" if row.layer in head else f"on the host: {row.reason}",
        )
        for row in lowered.coverage
        if not row.on_npu
    )
