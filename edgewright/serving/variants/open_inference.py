"""The Open Inference Protocol, version 2, over HTTP: JSON tensors, and the binary tensor data extension.

https://github.com/kserve/open-inference-protocol (rest/inference_rest.yaml) and its binary tensor data extension: the body is a
JSON object of `Inference-Header-Content-Length` bytes, followed by the raw tensors in the order of the inputs, little-endian,
row by row. A text element is four bytes of length and UTF-8.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import NotFoundError, SamplesError
from edgewright.serving.http.messages import BINARY, HttpError, Request, Response, json_response
from edgewright.serving.variants.images import ImageInput
from edgewright.serving.variants.json_protocol import jsonable
from edgewright.serving.variants.tensors import as_dtype, from_nested, may_hold_booleans, reshaped

HEADER_LENGTH = "inference-header-content-length"

_LONGEST_NUMBER = 20
"""Digits of a length; Python refuses to convert some thousands."""

_Array = npt.NDArray[Any]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferInput:
    """One input tensor: `data`, or `binary_data_size` in its parameters."""

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


_DECODER = msgspec.json.Decoder(InferRequest)


def decode(request: Request, inputs: Sequence[TensorSpec], image_input: ImageInput | None = None) -> tuple[InferRequest, Tensors]:
    """Read an inference request and its tensors; UINT8 pixels are prepared by `image_input`, if the model has one.

    Raises:
        HttpError: the JSON part is not an inference request.
        SamplesError: a tensor is unknown or inconsistent, or does not fit the model's dtype.
    """
    length = _header_length(request)
    try:
        infer = _DECODER.decode(memoryview(request.body)[:length])
    except (msgspec.DecodeError, RecursionError) as error:
        hint = f"; binary tensors need the header {HEADER_LENGTH}" if HEADER_LENGTH not in request.headers else ""
        raise HttpError(400, f"the body must be an inference request in JSON: {error}{hint}") from error
    specs = {spec.name: spec for spec in inputs}
    rest = memoryview(request.body)[length:]
    tensors: Tensors = {}
    may_mix = may_hold_booleans(request.body)
    for tensor in infer.inputs:
        if tensor.name not in specs:
            raise SamplesError(f"unknown input {tensor.name}: the model's inputs are {', '.join(map(str, inputs))}")
        if tensor.name in tensors:
            raise SamplesError(f"input {tensor.name} must be sent once, but it was sent twice")
        tensors[tensor.name], rest = _read_tensor(tensor, specs[tensor.name], rest, image_input, may_mix=may_mix)
    if rest:
        raise SamplesError(f"{len(rest)} bytes follow the last tensor: binary_data_size must account for every byte")
    return infer, tensors


def encode(infer: InferRequest, outputs: Tensors, *, model: str, version: int) -> Response:
    """Write the requested outputs (all, if none are named), each as JSON or binary as requested."""
    requested = infer.outputs or tuple(InferOutput(name=name) for name in outputs)
    all_binary = infer.parameters.get("binary_data_output") is True
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output in requested:
        if output.name not in outputs:
            raise NotFoundError(f"unknown output {output.name}: the model's outputs are {', '.join(outputs)}")
        array = outputs[output.name]
        entry: dict[str, Any] = {"name": output.name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
        if output.parameters.get("binary_data", all_binary):
            blobs.append(_to_binary(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = jsonable(array.reshape(-1))
        described.append(entry)
    document = {"model_name": model, "model_version": str(version), "outputs": described}
    if infer.id is not None:
        document["id"] = infer.id
    if not blobs:
        return json_response(document)
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(200, b"".join([header, *blobs]), BINARY, ((HEADER_LENGTH, str(len(header))),))


def check_outputs_exist(infer: InferRequest, outputs: Sequence[TensorSpec]) -> None:
    """Raise `NotFoundError` for a requested output that the model does not have, before anything is computed."""
    names = [spec.name for spec in outputs]
    for output in infer.outputs:
        if output.name not in names:
            raise NotFoundError(f"unknown output {output.name}: the model's outputs are {', '.join(names)}")


def tensor_metadata(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Describe tensors as the protocol does: a dynamic axis is -1."""
    return [
        {
            "name": spec.name,
            "datatype": DATATYPES[np.dtype(spec.dtype).name],
            "shape": [size if isinstance(size, int) else -1 for size in spec.shape],
        }
        for spec in specs
    ]


def _header_length(request: Request) -> int:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return len(request.body)
    if not text.isdecimal() or len(text) > _LONGEST_NUMBER or int(text) > len(request.body):
        raise HttpError(400, f"{HEADER_LENGTH} must be at most the body's {len(request.body)} bytes, not {text[:40]!r}")
    return int(text)


def _read_tensor(
    tensor: InferInput, spec: TensorSpec, rest: memoryview, image_input: ImageInput | None, *, may_mix: bool
) -> tuple[_Array, memoryview]:
    """Return one tensor and the bytes that follow it."""
    if tensor.datatype not in _DTYPES:
        raise SamplesError(f"input {tensor.name}: datatype must be one of {', '.join(_DTYPES)}, not {tensor.datatype!r}")
    if any(size < 0 for size in tensor.shape):
        raise SamplesError(f"input {tensor.name}: shape must be sizes of 0 or more, not {list(tensor.shape)}")
    size_bytes = tensor.parameters.get("binary_data_size")
    if size_bytes is None:
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


def _to_binary(array: _Array) -> bytes:
    if array.dtype.kind == "O":
        encoded = [str(value).encode() for value in array.flat]
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
