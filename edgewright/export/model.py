"""Read a model for a consumer: one graph in one file, its inputs and the output that is returned for each sample.

A consumer scores rows: each input is one column of numbers or of lists of numbers, and the result is a list of numbers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from accel.bench import BenchTarget, open_targets
from edgewright.contracts.names import check_name
from edgewright.contracts.variant import BackendName, LayerKind
from edgewright.errors import BadInputError, ModelError

_QUOTABLE = re.compile(r"[^\"'`\\$\x00-\x1f]+")
"""Names that can stand in a string of every language."""
LARGEST_BYTES = 2**31 - 1
"""A graph with its weights in one file is a protocol buffer, which cannot be larger."""
_NUMBERS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {"float16", "float32", "float64", "bool"}


@dataclass(frozen=True, slots=True)
class Column:
    """One input or output: its name, NumPy's name of its type, and the shape of one sample, without the batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers per sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A graph that a consumer can score row by row."""

    name: str
    proto: onnx.ModelProto
    inputs: tuple[Column, ...]
    output: Column
    batch: int | None
    """The number of samples of a run, if the graph fixes it."""
    labels: tuple[str, ...] = ()

    @property
    def opset(self) -> int:
        """The graph's version of ONNX's own operators."""
        return self.opset_of("")

    @property
    def ml_opset(self) -> int:
        """The graph's version of the operators of classical models; 0 without them."""
        return self.opset_of("ai.onnx.ml")

    def opset_of(self, domain: str) -> int:
        """Return the version of a domain; 0 if the graph does not use it."""
        return next((entry.version for entry in self.proto.opset_import if (entry.domain or "") == domain), 0)

    def to_bytes(self) -> bytes:
        """Return the file."""
        raw: bytes = self.proto.SerializeToString(deterministic=True)
        return raw


def read_model(path: Path, *, name: str | None = None, variant: str | None = None, output: str | None = None) -> ExportedModel:
    """Read an ONNX file, or a variant of a build directory or package.

    Args:
        path: the model.
        name: its name in the files; by default that of the path.
        variant: the variant; by default `fp32`, or the only one.
        output: the output that is returned; by default the first one.

    Raises:
        BadInputError: the graph has inputs or outputs that are not rows of numbers, or no such variant or output.
        ModelError: it is too large for one file, or is not ONNX.
    """
    with open_targets(path, variant) as targets:
        target = _chosen(path, targets)
        graph = target.graph or _graph_of(target)
        proto = _loaded(graph)
        labels = target.variant.config.labels if target.variant else ()
    initializers = {tensor.name for tensor in proto.graph.initializer}
    inputs = [_read(value) for value in proto.graph.input if value.name not in initializers]
    outputs = {value.name: value for value in proto.graph.output}
    if output is not None and output not in outputs:
        raise BadInputError(f"{path} has no output {output!r}; its outputs are {', '.join(outputs)}")
    batches = {batch for _, batch in inputs}
    if len(batches) != 1:
        raise BadInputError(f"all inputs of {path} must have the same number of samples, but their first axes differ: {batches}")
    result, _ = _read(outputs[output or next(iter(outputs))])
    return ExportedModel(
        name=check_name(name or path.name.split(".")[0].lower(), "model"),
        proto=proto,
        inputs=tuple(column for column, _ in inputs),
        output=result,
        batch=batches.pop(),
        labels=labels,
    )


def _chosen(path: Path, targets: tuple[BenchTarget, ...]) -> BenchTarget:
    named = {target.name: target for target in targets}
    if len(targets) > 1 and "fp32" not in named:
        raise BadInputError(f"{path} has several variants, name one with --variant: {', '.join(named)}")
    return named.get("fp32", targets[0]) if len(targets) > 1 else targets[0]


def _graph_of(target: BenchTarget) -> Path:
    assert target.variant is not None
    if target.variant.config.backend == BackendName.NPU:
        raise BadInputError(f"{target.name} is a program for an NPU, and consumers run ONNX graphs: export another variant")
    return target.variant.file(LayerKind.GRAPH)


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path)
        size = proto.ByteSize()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must be an ONNX model: {error}") from error
    except Exception as error:  # google.protobuf's DecodeError has no public base class in all releases
        raise ModelError(f"{path} must be an ONNX model: {error}") from error
    if size > LARGEST_BYTES:
        raise ModelError(f"{path} must be smaller than 2 GiB to be one file, but has {size} bytes: quantize it first")
    return proto


def _read(value: onnx.ValueInfoProto) -> tuple[Column, int | None]:
    """Return an input or output, and its fixed number of samples."""
    if not _QUOTABLE.fullmatch(value.name):
        raise BadInputError(f"names of inputs and outputs must be without quotes and backslashes, not {value.name!r}")
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise BadInputError(f"{value.name} must be a tensor, but is a {kind}: 'edgewright convert' makes tensors of such outputs")
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    if dtype not in _NUMBERS:
        raise BadInputError(
            f"{value.name} must hold numbers, but holds {dtype}: export a model that takes numbers, or choose an output with "
            "--output"
        )
    sizes = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else None for dim in tensor.shape.dim]
    if not sizes or any(size is None or size < 1 for size in sizes[1:]):
        shown = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim)
        raise BadInputError(
            f"{value.name} must have samples of one size, but its shape is [{shown}]: fix it with 'edgewright convert --shape'"
        )
    return Column(value.name, dtype, tuple(size for size in sizes[1:] if size is not None)), sizes[0]
