"""int8: integers for every operator with integer kernels, in the ranges of real samples.

prepare     shared biases, factors of Gemm and reserved names in a form that the quantizer handles (canonical.py)
calibrate   the range of every tensor
equalize    on request: equalize channels before rounding (equalize.py)
quantize    activations with a zero point (half a point more accurate on ResNet-8 than symmetric ones), weights per output
            channel, in the types that the hardware multiplies exactly and fast (qdq.py)
correct     compensate in the bias for the shift of a layer's mean, if the SQNR increases (bias_correction.py)
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from accel.first_run import FirstRuns
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples
from edgewright.contracts.variant import LayerKind, Precision
from edgewright.errors import ModelError
from edgewright.progress import Progress, silent
from hardware_profiles.hardware_profile import Int8Types
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.calibration.histograms import Range
from quantize.calibration.thresholds import Calibration
from quantize.crashes import without_crash
from quantize.int8.bias_correction import correct_biases
from quantize.int8.canonical import canonicalize
from quantize.int8.equalize import equalize
from quantize.int8.float_islands import float_islands
from quantize.int8.qdq import QdqFormat, layers, quantized_graph, set_weight, with_followers
from quantize.rewrites.space_to_depth import LARGEST_SHARE, space_to_depth
from quantize.rewrites.stride_hoisting import hoist_strides
from quantize.scheme import FloatFallback, QuantizationResult, float_graph, head_nodes, write_variant_graph
from quantize.weights.weight_only import store_as_int8

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
TABLES = frozenset({"Gather"})
STORED_AS_INT8 = TABLES | {"LSTM", "GRU", "RNN"}
"""Layers without an integer kernel for calibrated activations: only their weights are int8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Settings:
    """The settings of the integer schemes."""

    calibration: Calibration = Calibration.MINMAX
    """MSE has a higher SQNR on ResNet-8, but one point less accuracy, even on its own calibration set."""
    equalize: bool = False
    types: Int8Types = Int8Types.U8S8
    """The types that the processor multiplies fastest (`HardwareProfile.int8_types`)."""
    correct_bias: bool = True


@dataclass(frozen=True, slots=True)
class CalibratedGraph:
    """A float graph with embedded weights, ready for any number of quantizations."""

    model: onnx.ModelProto
    """Has corrected biases."""
    ranges: Mapping[str, Range]
    original_biases: Mapping[str, npt.NDArray[np.float32]]
    """The biases before their correction, by layer; a layer that stays float needs its own."""
    types: Int8Types

    def quantized(self, kept_float: Collection[str] = (), *, integer_biases: bool = False) -> onnx.ModelProto:
        """Return the int8 graph in which the layers called `kept_float` stay unchanged."""
        form = QdqFormat(types=self.types, integer_biases=integer_biases)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for node in layers(model):
            if node.name in kept_float and node.name in self.original_biases:
                set_weight(model, node.input[2], self.original_biases[node.name])
        return quantized_graph(model, self.ranges, with_followers(model, kept_float), form)


def make_int8(
    build: BuildDirectory,
    samples: Samples,
    folder: Path,
    *,
    settings: Int8Settings,
    first_runs: FirstRuns,
    progress: Progress = silent,
) -> QuantizationResult:
    """Write the int8 variant of a build's graph into `folder`.

    Raises:
        ModelError: no operator of the graph has an integer kernel, or onnxruntime crashes on the graph.
    """
    prepared = prepare(build, samples, settings, progress)
    kinds = {node.name: node.op_type for node in prepared.model.graph.node}

    def crash_with(changed: list[str]) -> str | None:
        write_int8(build, prepared.quantized(kinds.keys() - set(changed)), folder)
        return first_runs.crash_of(folder / LayerKind.GRAPH.file_name, precision=Precision.INT8)

    changed = without_crash(kinds, list(kinds), crash_with, where=build.path)
    crashing = dict.fromkeys(kinds.keys() - set(changed), "onnxruntime crashes on its integer form")
    return QuantizationResult(int8_fallbacks(prepared, crashing), prepared.model)


def prepare(build: BuildDirectory, samples: Samples, settings: Int8Settings, progress: Progress = silent) -> CalibratedGraph:
    """Calibrate, equalize and correct: all steps before the integers."""
    model = onnx.load(float_graph(build))
    canonicalize(model)
    hoist_strides(model)
    if settings.equalize:
        equalize(model, apart=head_nodes(build))
    observed = ObservedGraph(model, progress=progress)
    ranges = tensor_ranges(observed, samples, settings.calibration)
    rounding = partial(quantized_graph, ranges=ranges, form=QdqFormat(types=settings.types))
    originals = {}
    if settings.correct_bias:
        originals = correct_biases(model, observed, ranges, samples, rounding=rounding)
    return CalibratedGraph(model, ranges, originals, settings.types)


def write_int8(
    build: BuildDirectory,
    quantized: onnx.ModelProto,
    folder: Path,
    *,
    for_processors: bool = True,
    stored: Collection[str] = STORED_AS_INT8,
) -> None:
    """Write a quantized graph into a variant's folder.

    `for_processors` also applies the space-to-depth rewrite, and stores the weights of the operators `stored` as int8.

    Raises:
        ModelError: the graph has no quantizer.
    """
    _check_quantized(quantized, build.path)
    graph = with_stored_weights(quantized, stored) if for_processors else ir.from_proto(quantized)
    graph.metadata_props.clear()
    graph.producer_name, graph.producer_version = "edgewright", None
    if for_processors:
        space_to_depth(graph.graph, largest_share=LARGEST_SHARE)
    write_variant_graph(build, graph, folder)


def with_stored_weights(quantized: onnx.ModelProto, operators: Collection[str] = STORED_AS_INT8) -> ir.Model:
    """Return a quantized graph in which `operators` read weights that are stored as int8."""
    model = ir.from_proto(quantized)
    store_as_int8(model.graph, operators)
    return model


def int8_fallbacks(prepared: CalibratedGraph, others: Mapping[str, str] | None = None) -> tuple[FloatFallback, ...]:
    """Return the operators that int8 never quantizes, and `others`, with the reason."""
    reasons = {**(others or {}), **float_islands(prepared.model, prepared.ranges)}
    return tuple(
        FloatFallback(node=node.name, operator=node.op_type, reason=reasons[node.name])
        for node in prepared.model.graph.node
        if node.name in reasons
    )


def _check_quantized(model: onnx.ModelProto, where: Path) -> None:
    count = sum(node.op_type in _QUANTIZERS for node in model.graph.node)
    if not count:
        operators = sorted({node.op_type for node in model.graph.node})
        raise ModelError(
            f"{where}: int8 needs operators with integer kernels (Conv, Gemm, MatMul, …), but the graph has {operators}"
        )
    logging.getLogger(__name__).info("quantized quantizers=%d", count)
