"""int8 by NNCF, tuned for OpenVINO: NNCF quantizes the tensors that this runtime can fuse.

    samples      one at a time, so five thousand need no more memory than fifty
    quantize     NNCF on the ONNX graph: QuantizeLinear and DequantizeLinear, weights folded to int8
    write        weights of featurizer and head apart, as in the float variant

The result is plain ONNX, so onnxruntime runs it too. Two of NNCF's defaults are changed, because they cost two points of accuracy
on a trained ResNet-8 (0.895 in float): ranges are the true minimum and maximum, and biases stay unchanged (0.8925; with NNCF's
averaged ranges and fast bias correction: 0.87).
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from accel.backends.openvino_cpu import without_telemetry
from accel.npu.lowering.opset import lower_opset
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import (
    FLOAT_VARIANT,
    BackendName,
    LayerKind,
    Precision,
    Tolerance,
    VariantConfig,
    VariantDirectory,
    size_of_weights_and_graph,
)
from edgewright.errors import BadInputError, ModelError, OperationError, one_line
from edgewright.graphs.files import write_graph
from edgewright.progress import Progress, silent
from edgewright.steps import step
from quantize.int8.qdq import WEIGHTED
from quantize.rewrites.stride_hoisting import hoist_strides
from quantize.scheme import FloatFallback, QuantizationResult, float_graph

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NncfOptions:
    """The name and tolerance of the variant, and the settings of NNCF."""

    name: str = "int8-openvino"
    tolerance: Tolerance | None = None
    """None keeps the float variant's until the variant is measured."""
    correct_biases: bool = False
    symmetric_activations: bool = True
    """Zero points cost OpenVINO a sum per window: an eighth of MobileNetV2's time, without better labels on ResNet-8."""


def quantize_with_nncf(
    float_variant: VariantDirectory,
    samples: Samples,
    target: Path,
    options: NncfOptions | None = None,
    *,
    progress: Progress = silent,
) -> VariantDirectory:
    """Write the int8 variant of `float_variant` into the empty directory `target`, without measurements.

    Raises:
        BadInputError: NNCF is not installed, or the variant is not a float graph.
        ModelError: no operator of the graph has an integer kernel.
        OperationError: NNCF failed.
    """
    options = options or NncfOptions()
    check_installed()
    if float_variant.config.precision is not Precision.FP32:
        precision = float_variant.config.precision
        raise BadInputError(f"{float_variant.path}: int8 needs an fp32 variant, but this one is {precision}")
    source = float_variant.file(LayerKind.GRAPH)
    model = onnx.load(source)
    hoist_strides(model)
    quantized = _plain_onnx(
        _quantized(model, float_variant, _OneByOne(samples, _batch(float_variant), progress), options), source
    )
    write_graph(target, ir.from_proto(quantized), _side_of(ir.load(source)))
    return VariantDirectory.write(target, _config(float_variant.config, options, target))


def make_openvino_int8(
    build: BuildDirectory, samples: Samples, folder: Path, *, progress: Progress = silent
) -> QuantizationResult:
    """Write the int8 variant of a build's graph into `folder` with NNCF."""
    variant = quantize_with_nncf(build.variant(FLOAT_VARIANT), samples, folder, progress=progress)
    graph = onnx.load(variant.file(LayerKind.GRAPH), load_external_data=False).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    fallbacks = tuple(
        FloatFallback(node=node.name, operator=node.op_type, reason="NNCF has no integer form of it that is faster in OpenVINO")
        for node in graph.node
        if node.op_type in WEIGHTED | {"Softmax", "LogSoftmax"} and not dequantized & set(node.input)
    )
    reference = onnx.load(float_graph(build))
    return QuantizationResult(fallbacks, reference if hoist_strides(reference) else None)


def check_installed() -> None:
    """Raise `BadInputError` unless NNCF is installed."""
    if find_spec("nncf") is None:
        raise BadInputError("int8 for openvino needs the package nncf, which is not installed: pip install 'edgewright[nncf]'")


class _OneByOne:
    """The samples as an iterable for NNCF, in batches of the size that the graph requires."""

    def __init__(self, samples: Samples, batch: int, progress: Progress) -> None:
        self._samples, self._batch, self._progress = samples, batch, progress

    def __iter__(self) -> Iterator[Tensors]:
        for start in self._progress(range(0, self._samples.count, self._batch), "calibrating"):
            places = np.arange(start, start + self._batch) % self._samples.count
            yield self._samples.take(places).inputs

    def __len__(self) -> int:
        return math.ceil(self._samples.count / self._batch)


def _batch(variant: VariantDirectory) -> int:
    """Return the batch size that the graph requires, or 1 if it is free."""
    sizes = [spec.shape[0] for spec in variant.config.inputs if spec.shape]
    return max((size for size in sizes if isinstance(size, int)), default=1)


@step("the quantization by nncf")
def _quantized(model: onnx.ModelProto, variant: VariantDirectory, source: _OneByOne, options: NncfOptions) -> onnx.ModelProto:
    with _quiet_nncf() as nncf:
        try:
            quantized: onnx.ModelProto = nncf.quantize(model, nncf.Dataset(source), **_settings(nncf, len(source), options))
        except (nncf.ValidationError, nncf.InternalError, nncf.UnsupportedModelError, RuntimeError, ValueError) as error:
            raise OperationError(f"{variant.path}: nncf failed: {one_line(error)}") from error
    return quantized


def _settings(nncf: Any, count: int, options: NncfOptions) -> dict[str, Any]:
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    preset = nncf.QuantizationPreset.PERFORMANCE if options.symmetric_activations else nncf.QuantizationPreset.MIXED
    return {
        "preset": preset,
        "target_device": nncf.TargetDevice.CPU,
        "subset_size": count,
        "advanced_parameters": nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            disable_bias_correction=not options.correct_biases,
        ),
    }


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[Any]:
    """Import and use NNCF without its telemetry, and without its prints on standard output, where our JSON goes."""
    logger_class = logging.getLoggerClass()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            with without_telemetry():
                import nncf
        finally:
            logging.setLoggerClass(logger_class)  # NNCF replaces the class of all loggers
        nncf.set_log_level(logging.ERROR)
        yield nncf


def _plain_onnx(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """Return the graph in a form for every runtime; raise `ModelError` if it has no quantizer."""
    operators = {node.op_type for node in model.graph.node}
    if not operators & _QUANTIZERS:
        listed = ", ".join(sorted(operators))
        raise ModelError(f"{source}: int8 needs operators with integer kernels (Conv, Gemm, MatMul, …), but it has {listed}")
    lower_opset(model)
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "edgewright", ""
    onnx.checker.check_model(model)
    return model


def _side_of(original: ir.Model) -> Callable[[ir.Node], bool]:
    """Return a predicate for the nodes of the head: those with weights there in the float graph, and their followers."""
    sides = {node.name: side for node in original.graph if (side := _file_of_weights(node)) is not None}

    @functools.cache
    def is_head(node: ir.Node) -> bool:
        if node.name in sides:
            return sides[node.name] == LayerKind.HEAD_WEIGHTS.file_name
        producers = [producer for value in node.inputs if value is not None and (producer := value.producer()) is not None]
        if producers:
            return any(is_head(producer) for producer in producers)
        users = [user for output in node.outputs for user in output.consumers()]
        if node.inputs and node.inputs[0] is not None and node.inputs[0].is_graph_input():
            return LayerKind.FEATURIZER_WEIGHTS.file_name not in sides.values()
        return bool(users) and all(is_head(user) for user in users)

    return is_head


def _file_of_weights(node: ir.Node) -> str | None:
    for value in node.inputs:
        if value is not None and isinstance(value.const_value, ir.ExternalTensor):
            return Path(value.const_value.location).name
    return None


def _config(source: VariantConfig, options: NncfOptions, target: Path) -> VariantConfig:
    return VariantConfig(
        variant=options.name,
        backend=BackendName.OPENVINO,
        precision=Precision.INT8,
        inputs=source.inputs,
        outputs=source.outputs,
        tolerance=options.tolerance or source.tolerance,
        size_bytes=size_of_weights_and_graph(target),
        labels=source.labels,
        class_values=source.class_values,
        preprocessing=source.preprocessing,
        independent_samples=source.independent_samples,
    )
