"""An inference request of the Open Inference Protocol, independent of its transport: HTTP or gRPC.

read_tensors    the inputs as arrays
check           what the request asks for, before anything is computed
selected        the outputs that it asks for
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import NotFoundError, SamplesError
from edgewright.serving.variants.classification import class_count, classified
from edgewright.serving.variants.images import ImageInput
from edgewright.serving.variants.model_description import DATATYPES
from edgewright.serving.variants.tensors import as_dtype, from_nested, reshaped

_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}
_SHARED_MEMORY = "shared_memory_region"
_STATEFUL = ("sequence_id", "sequence_start", "sequence_end")

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferInput:
    """One input tensor: `data`, or `binary_data_size` in its parameters.

    Data of a transport that separates the tensors is a `memoryview` of the same bytes.
    """

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferOutput:
    """One requested output."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """The JSON object of an inference request."""

    inputs: tuple[InferInput, ...]
    id: str | None = None
    outputs: tuple[InferOutput, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


def read_tensors(
    infer: InferRequest,
    rest: memoryview,
    inputs: Sequence[TensorSpec],
    image_input: ImageInput | None = None,
    *,
    may_mix: bool = True,
) -> Tensors:
    """Return the tensors of a request; UINT8 pixels are prepared by `image_input`, if the model has one.

    Args:
        infer: the request.
        rest: binary tensors, in the order of the inputs.
        inputs: of the model.
        image_input: preprocessing of the model, or None.
        may_mix: False if no list mixes numbers with true or false (`may_hold_booleans`).

    Raises:
        SamplesError: a tensor is unknown or inconsistent, or does not fit the model's dtype.
    """
    specs = {spec.name: spec for spec in inputs}
    tensors: Tensors = {}
    for tensor in infer.inputs:
        if tensor.name not in specs:
            raise SamplesError(f"unknown input {tensor.name}: the model's inputs are {', '.join(map(str, inputs))}")
        if tensor.name in tensors:
            raise SamplesError(f"input {tensor.name} must be sent once, but it was sent twice")
        tensors[tensor.name], rest = _read_tensor(tensor, specs[tensor.name], rest, image_input, may_mix=may_mix)
    if rest:
        raise SamplesError(f"{len(rest)} bytes follow the last tensor: binary_data_size must account for every byte")
    return tensors


def check(infer: InferRequest, outputs: Sequence[TensorSpec]) -> None:
    """Check what a request asks for, before anything is computed.

    Raises:
        NotFoundError: the model does not have a requested output.
        SamplesError: a parameter cannot be followed.
    """
    names = [spec.name for spec in outputs]
    for output in infer.outputs:
        if output.name not in names:
            raise NotFoundError(f"unknown output {output.name}: the model's outputs are {', '.join(names)}")
        class_count(output.name, output.parameters)
    tensors: list[InferInput | InferOutput] = [*infer.inputs, *infer.outputs]
    for tensor in tensors:
        if tensor.parameters and _SHARED_MEMORY in tensor.parameters:
            raise SamplesError(f"{tensor.name} must not be in shared memory, which this server does not have with its clients")
    if infer.parameters and any(infer.parameters.get(name) for name in _STATEFUL):
        raise SamplesError("sequence_id must be absent: the model keeps no state between requests")


def selected(infer: InferRequest, outputs: Tensors, labels: Sequence[str]) -> list[tuple[InferOutput, _Array]]:
    """Return the requested outputs of a checked request (all, if it names none), as classes where it asks for those.

    Raises:
        SamplesError: classes of an output that does not hold numbers.
    """
    requested = infer.outputs or tuple(InferOutput(name=name) for name in outputs)
    chosen: list[tuple[InferOutput, _Array]] = []
    for output in requested:
        array = outputs[output.name]
        count = class_count(output.name, output.parameters) if output.parameters else 0
        chosen.append((output, classified(output.name, array, count, labels) if count else array))
    return chosen


def to_binary(array: _Array) -> bytes:
    """Return the bytes of a tensor: little-endian, row by row; a text as four bytes of length and UTF-8."""
    if array.dtype.kind == "O":
        encoded = [str(value).encode() for value in array.flat]
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _read_tensor(
    tensor: InferInput, spec: TensorSpec, rest: memoryview, image_input: ImageInput | None, *, may_mix: bool
) -> tuple[_Array, memoryview]:
    """Return one tensor and the bytes that follow it."""
    if tensor.datatype not in _DTYPES:
        raise SamplesError(f"input {tensor.name}: datatype must be one of {', '.join(_DTYPES)}, not {tensor.datatype!r}")
    if any(size < 0 for size in tensor.shape):
        raise SamplesError(f"input {tensor.name}: shape must be sizes of 0 or more, not {list(tensor.shape)}")
    size_bytes = tensor.parameters.get("binary_data_size")
    if isinstance(tensor.data, memoryview):
        flat = _from_binary(tensor, tensor.data)
    elif size_bytes is None:
        flat_spec = TensorSpec(name=tensor.name, dtype=_DTYPES[tensor.datatype], shape=("N",))
        flat = from_nested(tensor.data, flat_spec, may_mix=may_mix).reshape(-1)
    else:
        if not isinstance(size_bytes, int) or not 0 <= size_bytes <= len(rest):
            raise SamplesError(f"input {tensor.name}: binary_data_size is {size_bytes}, but {len(rest)} bytes are left")
        flat, rest = _from_binary(tensor, rest[:size_bytes]), rest[size_bytes:]
    if flat.size != math.prod(tensor.shape):
        raise SamplesError(
            f"input {tensor.name}: shape {list(tensor.shape)} needs {math.prod(tensor.shape)} values, not {flat.size}"
        )
    array = reshaped(flat, tensor.shape, f"input {tensor.name}")
    if image_input is not None and image_input.is_image(array):
        return image_input.from_pixels(array), rest
    return as_dtype(array, spec), rest


def _from_binary(tensor: InferInput, raw: memoryview) -> _Array:
    if tensor.datatype == "BYTES":
        return _texts(tensor, raw)
    dtype = np.dtype(_DTYPES[tensor.datatype]).newbyteorder("<")
    if len(raw) % dtype.itemsize:
        raise SamplesError(f"input {tensor.name}: {len(raw)} bytes are not a whole number of {tensor.datatype} values")
    return np.frombuffer(raw, dtype)


def _texts(tensor: InferInput, raw: memoryview) -> _Array:
    texts: list[str] = []
    try:
        while raw:
            (length,) = struct.unpack_from("<I", raw)
            if length > len(raw) - 4:
                raise ValueError(f"an element of {length} bytes is longer than the rest")
            texts.append(bytes(raw[4 : 4 + length]).decode())
            raw = raw[4 + length :]
    except (struct.error, ValueError) as error:
        raise SamplesError(f"input {tensor.name}: BYTES must be lengths and UTF-8 strings: {error}") from error
    return np.array(texts, dtype=object)
