"""Run a quantized graph on the NPU's functional model: the same bits as on a board, without a board or a program file.

A graph is compiled for a machine that is larger than any board, because all NPUs compute the same bits and differ only in speed;
`edgewright compile` checks that a model fits the user's board. Operators that the NPU does not have run on onnxruntime, as on a
device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from accel.comparison import compare_outputs, measured
from accel.measures import decisions, judgements, labelled
from accel.npu.compiler.compile import check_something_runs, compile_lowered
from accel.npu.compiler.host_part import host_parts
from accel.npu.lowering.inputs import AFFINE
from accel.npu.lowering.lower import lower
from accel.npu.lowering.qdq import has_blocks
from accel.npu.machines.host import Session, run_in_turn
from accel.npu.machines.host_parts import onnx_steps
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.profile import NpuProfile
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import TensorSpec, VariantDirectory
from edgewright.progress import Progress, silent
from quantize.calibration.sqnr import evenly_spaced

Array = npt.NDArray[Any]
FUNCTIONAL_MODEL = "npu functional model"
FUNCTIONAL_PREFIX = "functional-"
"""Prefix of the report's name."""
BATCH_SIZE = 32
MULTIPLICATIONS = 10**11
"""Budget of a measurement, a few minutes: all samples of a network for a microcontroller, some of a ResNet-50."""
FEWEST_SAMPLES = 16

UNBOUNDED_NPU = NpuProfile(
    name="functional-model",
    rows=32,
    columns=32,
    vector_lanes=8,
    paired=False,
    instructions=1 << 16,
    weight_rows=1 << 20,
    activation_vectors=1 << 16,
    accumulator_depth=1 << 12,
    parameter_groups=1 << 16,
    clock_mhz=1.0,
)


def unbounded_npu(model: onnx.ModelProto) -> NpuProfile:
    """Return a profile with capacity for any `model`, in the number format of its weights."""
    return replace(UNBOUNDED_NPU, number_format="mxint8") if has_blocks(model) else UNBOUNDED_NPU


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionalEvaluation:
    """The evaluation of a variant on the functional model, `reports/functional-<variant>.json`."""

    variant: str
    backend: str
    precision: str
    count: int
    accuracy: float | None
    """None without labels."""
    agreement: float | None
    """Share of predicted classes that equal the source model's; None if no output predicts classes."""
    max_relative_difference: float
    agreement_with_onnxruntime: float | None
    """Share of predicted classes that equal those of onnxruntime for the same graph; None if no output predicts classes."""
    on_host: tuple[str, ...]
    """The operators that run on the host."""
    error: float | None = None
    """Root mean square difference of predicted values, over their standard deviation; None without values."""
    constant: tuple[str, ...] = ()
    """Outputs that are the same for all samples although the source's are not."""
    latency_ms: None = None
    """Always None: `edgewright npu estimate` gives the latency of a board, and the model's own time means nothing."""


class ObservedNpuGraph:
    """A quantized graph on the functional model; its inner tensors can be read like those of an `ObservedGraph`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Compile a copy of `model` with every dequantized tensor as an output."""
        observed = onnx.ModelProto()
        observed.CopyFrom(model)
        weights = {tensor.name for tensor in observed.graph.initializer}
        outputs = {value.name for value in observed.graph.output}
        inner = [node for node in observed.graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in weights]
        names = [name for node in inner for name in node.output if name not in outputs | _changed_by_host(observed.graph)]
        observed.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
        self._model = PartitionedModel(observed)
        self.tensors = self._model.on_npu

    def run(self, inputs: Tensors, tensors: Sequence[str]) -> Tensors:
        """Return the values of `tensors`."""
        values = self._model.run_all(inputs)
        return {name: values[name] for name in tensors}


def _changed_by_host(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors with a constant multiplied or added: the host does that for inputs without another consumer."""
    constant = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        constant.update(node.output if all(name in constant for name in node.input) else ())
    affine = [node for node in graph.node if node.op_type in AFFINE and constant.intersection(node.input)]
    return {name for node in affine for name in node.input if name not in constant}


class PartitionedModel:
    """A complete graph: the NPU's segments on the functional model, the rest on onnxruntime."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Compile `model` unchanged, each segment as a program of its own: it has the same bits, and is computed once.

        Raises:
            ModelError: no operator can run on the NPU, or the model is too large even for the functional model.
        """
        machine = unbounded_npu(model)
        lowered = lower(model, columns=machine.columns)
        check_something_runs(lowered)
        compiled = [compile_lowered(segment, machine) for segment in lowered.apart()]
        self.coverage = lowered.coverage
        self.on_npu = tuple(lowered.outputs)
        """The tensors that leave the NPU."""
        self.multiplications = sum(segment.macs for segment in lowered.segments)
        """Multiplications per sample."""
        self._segments = [Session(FunctionalModel(machine), each.program).run for each in compiled]
        self._outputs = [value.name for value in model.graph.output]
        parts = host_parts(model, lowered.segments, "host")
        graphs = {at: part.SerializeToString() for at, part in enumerate((*parts.before, parts.head)) if part is not None}
        self._parts = onnx_steps(graphs)

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs of the graph, in its order."""
        computed = self.run_all(inputs)
        return {name: computed[name] for name in self._outputs}

    def run_all(self, inputs: Tensors) -> Tensors:
        """Return the inputs, and every tensor that passes between host and NPU or leaves the graph."""
        return run_in_turn(self._segments, self._parts, inputs)


def evaluate_functional(
    variant: VariantDirectory,
    model: onnx.ModelProto,
    samples: Samples,
    reference: Tensors,
    *,
    by_onnxruntime: Tensors,
    progress: Progress = silent,
) -> FunctionalEvaluation:
    """Measure the graph of a variant on the functional model; large networks on evenly spaced samples only.

    Raises:
        ModelError: no operator can run on the NPU, or the model is too large even for the functional model.
    """
    functional = PartitionedModel(model)
    limit = max(FEWEST_SAMPLES, MULTIPLICATIONS // max(functional.multiplications, 1))
    places = evenly_spaced(Samples({"place": np.arange(samples.count)}), limit).inputs["place"]
    subset = evenly_spaced(samples, limit)
    parts = [
        functional.run(subset.slice(start, start + BATCH_SIZE).inputs)
        for start in progress(range(0, subset.count, BATCH_SIZE), "measuring on the NPU's functional model")
    ]
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    expected = {name: _rows(array, places, outputs[name], samples.count) for name, array in reference.items()}
    theirs = {name: _rows(by_onnxruntime[name], places, outputs[name], samples.count) for name in reference}
    outputs, specs = {name: outputs[name][: len(array)] for name, array in expected.items()}, variant.config.outputs
    comparison = compare_outputs(expected, outputs, specs)
    result = measured(comparison, expected, outputs, subset.labels, specs)
    logging.getLogger(__name__).info("measured on=%s samples=%d", FUNCTIONAL_MODEL, subset.count)
    return FunctionalEvaluation(
        variant=variant.config.variant,
        backend=FUNCTIONAL_MODEL,
        precision=variant.config.precision.value,
        count=result.sample_count,
        accuracy=result.accuracy,
        agreement=result.agreement,
        max_relative_difference=result.max_relative_difference,
        agreement_with_onnxruntime=_same_classes(expected, outputs, theirs, specs),
        on_host=tuple(f"{row.layer} ({row.operator})" for row in functional.coverage if not row.on_npu),
        error=result.error,
        constant=comparison.constant,
    )


def _rows(array: Array, places: Array, outputs: Array, count: int) -> Array:
    """Return the rows of the samples at `places`; an output without a batch axis, such as a constant, is repeated instead."""
    return array[places] if len(array) == count else array[: len(outputs)]


def _same_classes(expected: Tensors, first: Tensors, second: Tensors, specs: Sequence[TensorSpec]) -> float | None:
    """Return the share of equal classes of two variants; None if no output predicts classes."""
    judged = judgements(expected, specs)
    name = labelled(judged)
    if name is None:
        return None
    return float(np.mean(decisions(first[name], judged[name]) == decisions(second[name], judged[name])))


def functional_row(evaluation: FunctionalEvaluation, size_bytes: int) -> tuple[object, ...]:
    """Return the cells below `accel.evaluate.EVALUATION_COLUMNS`."""
    accuracy = None if evaluation.accuracy is None else f"{evaluation.accuracy:.2%}"
    difference = f"{evaluation.max_relative_difference:.1e}"
    size = f"{size_bytes / 1000:,.1f}"
    agreement = None if evaluation.agreement is None else f"{evaluation.agreement:.2%}"
    return (evaluation.variant, evaluation.backend, accuracy, agreement, difference, size, None, None)
