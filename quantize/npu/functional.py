"""Run a quantized graph on the NPU's functional model: its own rounding, bit for bit, before there is a board or a program file.

A graph is compiled for a machine that is larger than any board, because every NPU computes the same bits and only the speed
differs; whether the model fits the user's board is the compiler's question. What the NPU has no operators for runs on onnxruntime
behind it, as on a device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx.utils

from accel.comparison import measure_outputs, predicted_labels
from accel.npu.compiler.compile import Compiled, compile_model
from accel.npu.lowering.inputs import AFFINE
from accel.npu.lowering.qdq import has_blocks
from accel.npu.machines.host import Session
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.profile import NpuProfile
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import VariantDirectory
from edgewright.contracts.wire import decode
from edgewright.errors import PackageError
from edgewright.progress import Progress, silent
from quantize.calibration.sqnr import evenly_spaced

FUNCTIONAL_MODEL = "npu functional model"
FUNCTIONAL_PREFIX = "functional-"
"""What its report's name begins with."""
BATCH_SIZE = 32
MULTIPLICATIONS = 10**11
"""What a measurement may cost, a few minutes: all samples of a network for a microcontroller, some of a ResNet-50."""
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
    """Return a machine with room for any `model`, of the number format that its weights need."""
    return replace(UNBOUNDED_NPU, number_format="mxint8") if has_blocks(model) else UNBOUNDED_NPU


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionalEvaluation:
    """`reports/functional-<variant>.json`: what a variant does on the NPU, in the words of `Evaluation`."""

    variant: str
    backend: str
    precision: str
    count: int
    accuracy: float | None
    """None without labels."""
    agreement: float
    """Share of samples whose predicted label equals the source model's."""
    max_relative_difference: float
    agreement_with_onnxruntime: float
    """Share of samples whose predicted label equals the one that onnxruntime gives for the same graph."""
    on_host: tuple[str, ...]
    """The operators that the NPU leaves to the host."""
    latency_ms: None = None
    """Of a board, `edgewright npu estimate` tells; how long its model takes on this machine says nothing."""


class ObservedNpuGraph:
    """A quantized graph on the functional model; its inner tensors can be seen like those of a `ObservedGraph`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Compile `model`, which is not changed, with every dequantized tensor as an output."""
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        weights = {tensor.name for tensor in watched.graph.initializer}
        known = {value.name for value in watched.graph.output}
        inner = [node for node in watched.graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in weights]
        names = [name for node in inner for name in node.output if name not in known | _changed_by_host(watched.graph)]
        watched.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
        machine = unbounded_npu(model)
        self._session = Session(FunctionalModel(machine), compile_model(watched, machine).program)
        self.tensors = tuple(place.name for place in self._session.program.description.outputs)

    def run(self, inputs: Tensors, tensors: Sequence[str]) -> Tensors:
        """Return the values of `tensors`."""
        found = self._session.run(inputs)
        return {name: found[name] for name in tensors}


def _changed_by_host(graph: onnx.GraphProto) -> set[str]:
    """Return what is multiplied by a constant, or added to one: the host does that to an input that nobody else reads."""
    constant = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        constant.update(node.output if all(name in constant for name in node.input) else ())
    affine = [node for node in graph.node if node.op_type in AFFINE and constant.intersection(node.input)]
    return {name for node in affine for name in node.input if name not in constant}


class PartitionedModel:
    """A whole graph: the NPU's part on the functional model, the rest on onnxruntime."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Compile `model` as it is.

        Raises:
            ModelError: nothing of it can run on the NPU, or it is too large even for the functional model.
        """
        machine = unbounded_npu(model)
        self.compiled: Compiled = compile_model(model, machine)
        self._session = Session(FunctionalModel(machine), self.compiled.program)
        self._outputs = [value.name for value in model.graph.output]
        self._rest = _rest(model, [place.name for place in self.compiled.program.description.outputs])

    @property
    def multiplications(self) -> int:
        """What one sample costs."""
        return sum(layer.macs for layer in self.compiled.program.description.layers)

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs of the graph, in its order."""
        found: Tensors = dict(inputs) | dict(self._session.run(inputs))
        if self._rest is not None:
            names = [node.name for node in self._rest.get_outputs()]
            wanted = {node.name: found[node.name] for node in self._rest.get_inputs()}
            found |= dict(zip(names, self._rest.run(names, wanted), strict=True))
        return {name: found[name] for name in self._outputs}


def evaluate_functional(
    variant: VariantDirectory,
    model: onnx.ModelProto,
    samples: Samples,
    reference: Tensors,
    *,
    by_onnxruntime: Tensors,
    progress: Progress = silent,
) -> FunctionalEvaluation:
    """Measure a variant's graph on the functional model; large networks on some of the samples, evenly spread."""
    functional = PartitionedModel(model)
    limit = max(FEWEST_SAMPLES, MULTIPLICATIONS // max(functional.multiplications, 1))
    places = evenly_spaced(Samples({"place": np.arange(samples.count)}), limit).inputs["place"]
    chosen = evenly_spaced(samples, limit)
    parts = [
        functional.run(chosen.slice(start, start + BATCH_SIZE).inputs)
        for start in progress(range(0, chosen.count, BATCH_SIZE), "measuring on the NPU's functional model")
    ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    told = measure_outputs({name: array[places] for name, array in reference.items()}, found, chosen.labels)
    first = next(iter(found))
    same = predicted_labels(found[first]) == predicted_labels(by_onnxruntime[first][places])
    logging.getLogger(__name__).info("measured on=%s samples=%d", FUNCTIONAL_MODEL, chosen.count)
    return FunctionalEvaluation(
        variant=variant.config.variant,
        backend=FUNCTIONAL_MODEL,
        precision=variant.config.precision.value,
        count=told.sample_count,
        accuracy=told.accuracy,
        agreement=told.agreement,
        max_relative_difference=told.max_relative_difference,
        agreement_with_onnxruntime=float(np.mean(same)),
        on_host=tuple(f"{row.layer} ({row.operator})" for row in functional.compiled.on_host),
    )


def _rest(model: onnx.ModelProto, made: Sequence[str]) -> Any:
    """Return a session of what comes behind the tensors `made` and beside them; None where they are all that the graph gives."""
    import onnxruntime

    wanted = [value.name for value in model.graph.output if value.name not in made]
    if not wanted:
        return None
    part = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(_ends(model, made), wanted)
    return onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])


def _ends(model: onnx.ModelProto, made: Sequence[str]) -> list[str]:
    """Return where the host's part begins: at what the NPU made, and at inputs that only the host reads."""
    weights = {tensor.name for tensor in model.graph.initializer}
    read: set[str] = set()
    waiting = [value.name for value in model.graph.output]
    producers = {name: node for node in model.graph.node for name in node.output}
    while waiting:
        name = waiting.pop()
        if name in read or name in made or name not in producers:
            read.add(name)
            continue
        read.add(name)
        waiting += producers[name].input
    return [*made, *(value.name for value in model.graph.input if value.name in read and value.name not in {*made, *weights})]


def functional_evaluation(build: BuildDirectory, variant: str) -> FunctionalEvaluation | None:
    """Return what was measured on the functional model, or None where nothing was."""
    path = build.reports / f"{FUNCTIONAL_PREFIX}{variant}.json"
    return decode(path.read_bytes(), FunctionalEvaluation, what=str(path), error=PackageError) if path.is_file() else None


def functional_row(evaluation: FunctionalEvaluation, size_bytes: int) -> tuple[object, ...]:
    """Return the cells under `accel.evaluate.EVALUATION_COLUMNS`."""
    accuracy = None if evaluation.accuracy is None else f"{evaluation.accuracy:.2%}"
    difference = f"{evaluation.max_relative_difference:.1e}"
    size = f"{size_bytes / 1000:,.1f}"
    return (evaluation.variant, evaluation.backend, accuracy, f"{evaluation.agreement:.2%}", difference, size, None, None)
