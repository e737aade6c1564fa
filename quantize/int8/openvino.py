"""int8 by NNCF, tuned for OpenVINO: which tensors are quantized follows that runtime's own rules for what it can fuse.

    samples      one at a time, so five thousand cost no more memory than fifty
    quantize     NNCF on the ONNX graph: QuantizeLinear and DequantizeLinear, weights folded to int8
    write        weights of featurizer and head apart, as in the float variant

The result is plain ONNX, so onnxruntime runs it too. Two of NNCF's defaults are not taken, because they cost two points of
accuracy on a trained ResNet-8 (0.895 in float): ranges are the true smallest and largest values, and biases stay as they are
(0.8925; NNCF's averaged ranges and fast bias correction: 0.87).
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
from edgewright.errors import BadInputError, ModelError, OperationError
from edgewright.graphs.files import write_graph
from edgewright.progress import Progress, silent
from quantize.int8.qdq import KEPT_FLOAT, WEIGHTED
from quantize.rewrites.opset import lower_opset
from quantize.rewrites.stride_hoisting import hoist_strides
from quantize.scheme import FloatFallback, QuantizationResult, float_graph

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NncfOptions:
    """How the variant is called, what it will be held to, and what of NNCF is used."""

    name: str = "int8-openvino"
    tolerance: Tolerance | None = None
    """None keeps the float variant's, until the variant has been measured."""
    correct_biases: bool = False
    symmetric_activations: bool = True
    """A zero point costs OpenVINO a sum over each window: an eighth of MobileNetV2, for no better labels on ResNet-8."""


def quantize_with_nncf(
    float_variant: VariantDirectory,
    samples: Samples,
    target: Path,
    options: NncfOptions | None = None,
    *,
    progress: Progress = silent,
) -> VariantDirectory:
    """Write the int8 variant of `float_variant` into the empty directory `target`; nothing of it is measured yet.

    Raises:
        BadInputError: NNCF is not installed, or the variant is no float graph.
        ModelError: nothing in the graph has an integer kernel.
        OperationError: NNCF failed.
    """
    options = options or NncfOptions()
    check_installed()
    if float_variant.config.precision is not Precision.FP32:
        found = float_variant.config.precision
        raise BadInputError(f"{float_variant.path}: int8 is made from an fp32 variant, but this one is {found}")
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
    """Write the int8 variant of a build's graph into `folder` as `quantize_with_nncf` does, and say what stayed in float."""
    made = quantize_with_nncf(build.variant(FLOAT_VARIANT), samples, folder, progress=progress)
    graph = onnx.load(made.file(LayerKind.GRAPH), load_external_data=False).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    kept = tuple(
        FloatFallback(node=node.name, operator=node.op_type, reason="NNCF knows no integer form of it that OpenVINO is faster at")
        for node in graph.node
        if node.op_type in WEIGHTED | KEPT_FLOAT and not dequantized & set(node.input)
    )
    compared = onnx.load(float_graph(build))
    return QuantizationResult(kept, compared if hoist_strides(compared) else None)


def check_installed() -> None:
    """Raise `BadInputError` unless NNCF is there."""
    if find_spec("nncf") is None:
        raise BadInputError("int8 for openvino needs the package nncf, which is not installed: pip install 'edgewright[nncf]'")


class _OneByOne:
    """The samples as NNCF wants them: as often as it likes, in batches of the size that the graph insists on."""

    def __init__(self, samples: Samples, batch: int, progress: Progress) -> None:
        self._samples, self._batch, self._progress = samples, batch, progress

    def __iter__(self) -> Iterator[Tensors]:
        for start in self._progress(range(0, self._samples.count, self._batch), "calibrating"):
            wanted = np.arange(start, start + self._batch) % self._samples.count
            yield self._samples.take(wanted).inputs

    def __len__(self) -> int:
        return math.ceil(self._samples.count / self._batch)


def _batch(variant: VariantDirectory) -> int:
    """Return the batch size that the graph requires, or 1 if it is free."""
    sizes = [spec.shape[0] for spec in variant.config.inputs if spec.shape]
    return max((size for size in sizes if isinstance(size, int)), default=1)


def _quantized(model: onnx.ModelProto, variant: VariantDirectory, source: _OneByOne, options: NncfOptions) -> onnx.ModelProto:
    with _quiet_nncf() as nncf:
        try:
            found: onnx.ModelProto = nncf.quantize(model, nncf.Dataset(source), **_settings(nncf, len(source), options))
        except (nncf.ValidationError, nncf.InternalError, nncf.UnsupportedModelError, RuntimeError, ValueError) as failed:
            raise OperationError(f"{variant.path}: nncf failed: {' '.join(str(failed).split())[:200]}") from failed
    return found


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
    """Import and use NNCF without its telemetry, and without what it writes to the output that our own JSON goes to."""
    logger_class = logging.getLoggerClass()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            with without_telemetry():
                import nncf
        finally:
            logging.setLoggerClass(logger_class)  # NNCF makes its own class everybody's
        nncf.set_log_level(logging.ERROR)
        yield nncf


def _plain_onnx(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """Return the graph as every runtime takes it; raise `ModelError` when nothing was quantized."""
    operators = {node.op_type for node in model.graph.node}
    if not operators & _QUANTIZERS:
        found = ", ".join(sorted(operators))
        raise ModelError(f"{source}: int8 needs operators with integer kernels (Conv, Gemm, MatMul, …), but it has {found}")
    lower_opset(model)
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "edgewright", ""
    onnx.checker.check_model(model)
    return model


def _side_of(original: ir.Model) -> Callable[[ir.Node], bool]:
    """Tell which nodes are the head's: those with weights there in the float graph, and what follows them or serves them."""
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
        preprocessing=source.preprocessing,
    )
