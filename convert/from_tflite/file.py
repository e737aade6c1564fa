"""Parse a TensorFlow Lite file into frozen dataclasses.

TensorFlow ships the generated schema of the format. It is loaded from its file, because importing TensorFlow takes seconds and
the schema needs only the package flatbuffers. Constants are views of the mapped file, so a large file is not copied.
"""

from __future__ import annotations

import functools
import importlib.util
import mmap
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgewright.errors import BadInputError, ModelError

Array = npt.NDArray[Any]

_DTYPES: dict[str, Any] = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "FLOAT64": np.float64,
    "BFLOAT16": ml_dtypes.bfloat16,
    "INT4": np.int8,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
}
_DAMAGED = (struct.error, IndexError, ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""Errors of the generated schema for a damaged file; it checks nothing itself."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """Real value = (stored value - zero point) * scale; one scale, or one per index of `axis`."""

    scales: Array
    zero_points: Array
    axis: int

    @property
    def per_tensor(self) -> bool:
        """One scale for all values."""
        return len(self.scales) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of the graph."""

    name: str
    type_name: str
    """The schema's name of the type, such as `INT4`; `dtype` is how values are stored in memory."""
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    """None: the size is free."""
    quantization: Quantization | None
    constant: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of the graph; an optional input that is left out has index -1."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    """The schema's object with the options of this kind, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteFile:
    """The main graph of a file."""

    path: Path
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: dict[int, str]
    """Names of inputs and outputs, from the signature where the file has one."""


def parse(path: Path, kinds: Collection[str] | None = None) -> TfliteFile:
    """Return the main graph of the file at `path`.

    Args:
        path: the file.
        kinds: the built-in operators that can be converted; None: all.

    Raises:
        ModelError: the file is damaged, or holds tensors or operators that cannot be converted.
        BadInputError: TensorFlow is not installed.
    """
    schema = _schema(path)
    with path.open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        _check_operators(model, schema, path)
        if kinds is not None:
            _check_kinds(model, schema, kinds, path)
        return _file(model, schema, content, path)
    except _DAMAGED as error:
        raise ModelError(f"{path} must be a whole TensorFlow Lite file, but it is truncated or damaged: copy it again") from error


@functools.cache
def _schema(path: Path) -> Any:
    package = importlib.util.find_spec("tensorflow")
    places = package.submodule_search_locations if package is not None else None
    if not places:
        raise BadInputError(f"{path} needs TensorFlow, which is not installed. Run: pip install 'edgewright[convert]'")
    where = Path(places[0]) / "lite" / "python" / "schema_py_generated.py"
    spec = importlib.util.spec_from_file_location("edgewright_tflite_schema", where)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} needs the schema of TensorFlow Lite, which this TensorFlow lacks: install tensorflow>=2.21")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_operators(model: Any, schema: Any, path: Path) -> None:
    """Refuse custom operators and operators of TensorFlow by name."""
    custom = sorted({_text(code.customCode) for code in model.operatorCodes if _kind(code, schema) == "CUSTOM"})
    flex = [name.removeprefix("Flex") for name in custom if name.startswith("Flex")]
    own = [name for name in custom if not name.startswith("Flex")]
    if own:
        raise ModelError(
            f"{path} must use built-in operators only, but it has the custom operators {', '.join(own)}: "
            "replace them, or convert the model that the file was made from"
        )
    if flex:
        raise ModelError(
            f"{path} must use built-in operators only, but it has operators of TensorFlow (Flex): {', '.join(flex)}; "
            "convert the SavedModel or Keras file that it was made from"
        )


def _check_kinds(model: Any, schema: Any, kinds: Collection[str], path: Path) -> None:
    """Refuse operators that cannot be converted by name, before tensors of theirs are refused without it."""
    used = {_kind(model.operatorCodes[operator.opcodeIndex], schema) for operator in _listed(model.subgraphs[0].operators)}
    unknown = sorted(used.difference(kinds))
    if unknown:
        raise ModelError(
            f"{path} has operators of TensorFlow Lite that cannot be converted: {', '.join(unknown)}; "
            "convert the model that the file was made from"
        )


def _file(model: Any, schema: Any, content: mmap.mmap, path: Path) -> TfliteFile:
    graph = model.subgraphs[0]
    kinds = [_kind(code, schema) for code in model.operatorCodes]
    types = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    users = {
        index: f" of {kinds[operator.opcodeIndex]}"
        for operator in reversed(_listed(graph.operators))
        for index in (*_indices(operator.outputs), *_indices(operator.inputs))
    }
    for index, tensor in enumerate(graph.tensors):
        _check_tensor(tensor, types[tensor.type], users.get(index, ""), path)
    tensors = tuple(_tensor(tensor, types[tensor.type], model.buffers, content, path) for tensor in graph.tensors)
    operators = tuple(
        Operator(
            kind=kinds[operator.opcodeIndex],
            inputs=_indices(operator.inputs),
            outputs=_indices(operator.outputs),
            options=operator.builtinOptions,
        )
        for operator in _listed(graph.operators)
    )
    inputs, outputs = _indices(graph.inputs), _indices(graph.outputs)
    names = {index: tensors[index].name for index in (*inputs, *outputs)}
    for signature in _listed(model.signatureDefs)[:1]:
        signed = (*_listed(signature.inputs), *_listed(signature.outputs))
        names |= {entry.tensorIndex: _text(entry.name) for entry in signed}
    return TfliteFile(path=path, tensors=tensors, operators=operators, inputs=inputs, outputs=outputs, names=names)


def _kind(code: Any, schema: Any) -> str:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # files before 2020 have the second one only
    return _operator_names(schema).get(number, f"number {number}")


@functools.cache
def _operator_names(schema: Any) -> dict[int, str]:
    return {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def _check_tensor(tensor: Any, type_name: str, user: str, path: Path) -> None:
    """Refuse a tensor without counterpart; `user` names the first operator that uses it."""
    name = f"{_text(tensor.name)!r}{user}"
    if type_name not in _DTYPES:
        raise ModelError(f"{path}: tensor {name} must hold numbers, but it holds {type_name}: remove this part of the model")
    if tensor.isVariable:
        raise ModelError(f"{path} keeps state between calls in {name}: save the model with the state as input and output")
    if tensor.sparsity is not None:
        raise ModelError(f"{path}: tensor {name} must be dense, but it is sparse: convert the model without sparsity")


def _tensor(tensor: Any, type_name: str, buffers: Any, content: mmap.mmap, path: Path) -> Tensor:
    name = _text(tensor.name)
    sizes = _indices(tensor.shape)
    signature = _indices(tensor.shapeSignature) or sizes
    shape = tuple(size if size >= 0 else None for size in signature)
    return Tensor(
        name=name,
        type_name=type_name,
        dtype=np.dtype(_DTYPES[type_name]),
        shape=shape,
        quantization=_quantization(tensor.quantization, name, path),
        constant=_constant(buffers[tensor.buffer], type_name, sizes, content),
    )


def _constant(buffer: Any, type_name: str, sizes: tuple[int, ...], content: mmap.mmap) -> Array | None:
    stored = buffer.data
    if buffer.offset > 1:  # in a file above 2 GB, buffers are stored after the flatbuffer
        stored = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    if stored is None or not len(stored):
        return None
    count = int(np.prod(sizes))
    if type_name == "INT4":
        low, high = (stored << 4).view(np.int8) >> 4, stored.view(np.int8) >> 4
        return np.stack([low, high], axis=1).reshape(-1)[:count].reshape(sizes)
    values: Array = np.asarray(stored).view(_DTYPES[type_name])
    return values.reshape(sizes)


def _quantization(parameters: Any, name: str, path: Path) -> Quantization | None:
    if parameters is None:
        return None
    if parameters.details is not None:
        raise ModelError(f"{path}: tensor {name!r} is quantized in blocks or by a custom scheme, which has no counterpart here")
    scales = np.asarray(_listed(parameters.scale), np.float32)
    if not len(scales):
        return None
    points = np.asarray(_listed(parameters.zeroPoint), np.int64)
    zero_points = np.broadcast_to(points if len(points) else np.zeros(1, np.int64), scales.shape)
    return Quantization(scales, zero_points, int(parameters.quantizedDimension))


def _indices(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in _listed(values))


def _listed(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
