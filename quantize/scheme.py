"""The schemes, and the steps that they share: read the float graph, keep the cut, write the files of a variant."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import FLOAT_VARIANT, LayerKind, Precision
from edgewright.errors import ModelError
from edgewright.graphs.bodies import inner_nodes
from edgewright.graphs.files import read_graph, write_graph
from edgewright.graphs.parts import parts_of
from quantize.rewrites.minify import minify
from quantize.weights.editing import OWNER

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}


LARGEST_MESSAGE = (1 << 31) - (64 << 20)
"""Largest graph with weights, in bytes, that protobuf serializes as one message, with room for what a scheme adds."""


class Scheme(enum.StrEnum):
    """The ways to make a variant of lower precision; a variant has the name of its scheme."""

    FP16 = "fp16"
    INT8 = "int8"
    MXINT8 = "mxint8"
    NPU_INT8 = "npu-int8"
    NPU_MXINT8 = "npu-mxint8"
    MIXED = "mixed"
    INT8_DYNAMIC = "int8-dynamic"

    @property
    def precision(self) -> Precision:
        """The number format of the scheme's variant."""
        return Precision(self.value)

    @property
    def needs_samples(self) -> bool:
        """True if the scheme calibrates; the others can be measured on the golden samples."""
        return self not in (Scheme.MXINT8, Scheme.INT8_DYNAMIC)

    @property
    def needs_one_message(self) -> bool:
        """True if the scheme calibrates the graph together with its weights as one protobuf message."""
        return self not in (Scheme.FP16, Scheme.MXINT8, Scheme.INT8_DYNAMIC)


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
    batch_ranges: bool = False
    """True if activations are quantized with their range over the whole batch, which makes its samples dependent."""


def float_graph(build: BuildDirectory) -> Path:
    """Return the path of the float graph."""
    return build.graph / LayerKind.GRAPH.file_name


def check_source(build: BuildDirectory) -> None:
    """Raise `ModelError` unless the source graph is a float32 graph without quantizers."""
    graph = read_float_graph(build).graph
    quantizers = sorted({node.op_type for node in graph if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear")})
    if quantizers:
        raise ModelError(
            f"{build.path}: the model must be a float model, but it is already quantized ({', '.join(quantizers)}): "
            "convert its float original, or package it as it is"
        )
    kinds = {value.const_value.dtype for value in graph.initializers.values() if value.const_value is not None}
    others = sorted(kind.name.lower() for kind in kinds & {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
    if others and ir.DataType.FLOAT not in kinds:
        raise ModelError(
            f"{build.path}: the weights must be float32, but they are {', '.join(others)}: export the model in float32"
        )


def check_size(build: BuildDirectory, scheme: Scheme) -> None:
    """Raise `ModelError` if the weights are too large for the scheme."""
    size_bytes = build.variant(FLOAT_VARIANT).config.size_bytes
    if scheme.needs_one_message and size_bytes > LARGEST_MESSAGE:
        raise ModelError(
            f"{build.path}: {scheme} needs graph and weights of at most 2 GB, but they are {size_bytes / 1e9:.1f} GB: "
            f"use {Scheme.FP16}, {Scheme.MXINT8} or {Scheme.INT8_DYNAMIC}"
        )


def read_float_graph(build: BuildDirectory) -> ir.Model:
    """Return the float graph; its external weights stay on disk."""
    return read_graph(float_graph(build))


def write_variant_graph(build: BuildDirectory, model: ir.Model, folder: Path) -> None:
    """Write a graph derived from the build's, with the weights of head and featurizer in separate files."""
    head = head_nodes(build)
    featurizer = {node.name for node in read_float_graph(build).graph} - head
    in_head = _head_membership(model.graph, head, featurizer)
    minify(model, in_head)
    write_graph(folder, model, in_head.__getitem__)


def head_nodes(build: BuildDirectory) -> set[str | None]:
    """Return the names of the operators after the cut; without a cut, of all."""
    original = read_float_graph(build)
    cut = build.record.cut
    return {node.name for node in (parts_of(original, cut).head if cut else original.graph)}


def _head_membership(graph: ir.Graph, head: set[str | None], featurizer: set[str | None]) -> dict[ir.Node, bool]:
    """Return True for every node of the head and False for every node of the featurizer.

    A node that a scheme added follows its owner (`editing.OWNER`), else the producer of its first input, else its consumers.
    """
    owners = {inner: node for node in graph for inner in inner_nodes(node)}
    in_head: dict[ir.Node, bool] = {}
    for node in graph:
        first = node.inputs[0] if node.inputs else None
        name = node.metadata_props.get(OWNER, node.name)
        if name in head or name in featurizer:
            in_head[node] = name in head
        elif first is not None and first.producer() in in_head:
            in_head[node] = in_head[first.producer()]
        elif first is not None and first.is_graph_input():
            in_head[node] = not featurizer
    for node in reversed(graph):
        if node not in in_head:
            users = [user for output in node.outputs for user in output.consumers()]
            in_head[node] = all(in_head[owners.get(user, user)] for user in users)
    return in_head
