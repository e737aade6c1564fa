"""What every scheme does the same way: take the float graph, keep the cut, write a variant's files."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import LayerKind, Precision
from edgewright.errors import ModelError
from edgewright.graphs.files import read_graph, write_graph
from edgewright.graphs.parts import parts_of
from quantize.rewrites.minify import minify

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}


class Scheme(enum.StrEnum):
    """The ways to make a variant of less precision; the variant is called after its scheme."""

    FP16 = "fp16"
    INT8 = "int8"
    MXINT8 = "mxint8"
    NPU_INT8 = "npu-int8"
    NPU_MXINT8 = "npu-mxint8"
    MIXED = "mixed"

    @property
    def precision(self) -> Precision:
        """The number format of what the scheme makes."""
        return Precision(self.value)

    @property
    def needs_samples(self) -> bool:
        """Whether it learns from samples; one that does not can be measured on the golden ones."""
        return self is not Scheme.MXINT8


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFallback:
    """An operator that stays in float32, and the reason."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuantizationResult:
    """Facts about a new variant that its files do not hold."""

    float_fallbacks: tuple[FloatFallback, ...] = ()
    reference_model: onnx.ModelProto | None = None
    """The float graph to compare layers with; None is the build's own (equalization changes it)."""


def float_graph(build: BuildDirectory) -> Path:
    """Return where the float graph lies."""
    return build.graph / LayerKind.GRAPH.file_name


def check_source(build: BuildDirectory) -> None:
    """Raise `ModelError` where a scheme would have nothing to begin with: the source is of less, or of more, precision."""
    graph = read_float_graph(build).graph
    found = sorted({node.op_type for node in graph if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear")})
    if found:
        raise ModelError(
            f"{build.path}: a scheme begins with a float model, but this one is quantized already ({', '.join(found)}): "
            "convert the model that it was made of, or package this one as it is"
        )
    kinds = {value.const_value.dtype for value in graph.initializers.values() if value.const_value is not None}
    others = sorted(kind.name.lower() for kind in kinds & {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
    if others and ir.DataType.FLOAT not in kinds:
        raise ModelError(
            f"{build.path}: a scheme begins with a float32 model, but the weights of this one are {', '.join(others)}: "
            "export it in float32"
        )


def read_float_graph(build: BuildDirectory) -> ir.Model:
    """Return the float graph; its weights stay on disk."""
    return read_graph(float_graph(build))


def write_variant_graph(build: BuildDirectory, model: ir.Model, folder: Path) -> None:
    """Write a graph derived from the build's; weights of the head stay apart from those of the featurizer."""
    head = head_nodes(build)
    featurizer = {node.name for node in read_float_graph(build).graph} - head
    sides = _sides(model.graph, head, featurizer)
    minify(model, sides)
    write_graph(folder, model, sides.__getitem__)


def head_nodes(build: BuildDirectory) -> set[str | None]:
    """Return the names of the operators behind the cut; without a cut, of all."""
    original = read_float_graph(build)
    cut = build.record.cut
    return {node.name for node in (parts_of(original, cut).head if cut else original.graph)}


def _sides(graph: ir.Graph, head: set[str | None], featurizer: set[str | None]) -> dict[ir.Node, bool]:
    """Say of every node whether it is the head's.

    Nodes that a scheme added belong where their first input comes from, and where that is no data either, to whom they serve.
    """
    sides: dict[ir.Node, bool] = {}
    for node in graph:
        first = node.inputs[0] if node.inputs else None
        if node.name in head or node.name in featurizer:
            sides[node] = node.name in head
        elif first is not None and first.producer() in sides:
            sides[node] = sides[first.producer()]
        elif first is not None and first.is_graph_input():
            sides[node] = not featurizer
    for node in reversed(graph):
        if node not in sides:
            sides[node] = all(sides[user] for output in node.outputs for user in output.consumers())
    return sides
