"""What every scheme does the same way: take the float graph, keep the cut, write a variant's files."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from convert.graph_files import read_graph, write_graph
from convert.split import parts_of
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import LayerKind, Precision


class Scheme(enum.StrEnum):
    """The ways to make a variant of less precision; the variant is called after its scheme."""

    FP16 = "fp16"
    INT8 = "int8"
    MIXED = "mixed"

    @property
    def precision(self) -> Precision:
        """The number format of what the scheme makes."""
        return Precision(self.value)


def float_graph(build: BuildDirectory) -> Path:
    """Return where the float graph lies."""
    return build.graph / LayerKind.GRAPH.file_name


def read_float_graph(build: BuildDirectory) -> ir.Model:
    """Return the float graph; its weights stay on disk."""
    return read_graph(float_graph(build))


def write_variant_graph(build: BuildDirectory, model: ir.Model, folder: Path) -> None:
    """Write a graph derived from the build's; weights of the head stay apart from those of the featurizer."""
    head = head_nodes(build)
    featurizer = {node.name for node in read_float_graph(build).graph} - head
    write_graph(folder, model, _side_of(head, featurizer))


def head_nodes(build: BuildDirectory) -> set[str | None]:
    """Return the names of the operators behind the cut; without a cut, of all."""
    original = read_float_graph(build)
    cut = build.record.cut
    return {node.name for node in (parts_of(original, cut).head if cut else original.graph)}


def _side_of(head: set[str | None], featurizer: set[str | None]) -> Callable[[ir.Node], bool]:
    """Say of every node whether it is the head's; nodes that a scheme added belong to whom they serve."""

    def is_head(node: ir.Node) -> bool:
        if node.name in head or node.name in featurizer:
            return node.name in head
        first = node.inputs[0] if node.inputs else None
        producer = None if first is None else first.producer()
        if producer is not None:
            return is_head(producer)
        if first is not None and first.is_graph_input():
            return not featurizer
        return all(is_head(user) for output in node.outputs for user in output.consumers())

    return is_head
