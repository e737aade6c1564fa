"""The simple protocol of `POST /score`: `{"data": ...}` as JSON, or one array as `application/x-npy`.

    {"data": [[...], ...]}                one input
    {"data": {"a": [...], "b": [...]}}    inputs by name
    {"images": ["iVBORw0...", ...]}       pictures in base64, for a model whose package says how they are prepared (images.py)
    -> {"result": ..., "labels": [...]}   one output as lists or several by name; labels where the model has names for its classes

A `.npy` body is a view on the bytes that arrived, and the answer is the first output in the same form, unless the client
accepts only JSON.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError, first_line
from edgewright.serving.exchange import JSON, NPY, Answer, RefusedError, Request, json_answer, parse_json
from edgewright.serving.images import PictureInput
from edgewright.serving.tensors import as_dtype, from_nested

PICTURE = "image/"

_Array = npt.NDArray[Any]


def decode(request: Request, inputs: Sequence[TensorSpec], pictures: PictureInput | None = None) -> Tensors:
    """Read the inputs of a scoring request; pixels and pictures become the input of `pictures`, where the model has one."""
    if request.media_type == NPY:
        return _decode_npy(request.body, inputs, pictures)
    if request.media_type.startswith(PICTURE):
        known = _known(pictures, request.media_type)
        return {known.spec.name: known.from_files([request.body])}
    if request.media_type not in (JSON, ""):
        raise RefusedError(415, f"Content-Type must be {JSON} or {NPY}, not {request.media_type}")
    document = parse_json(request.body, "the body")
    if isinstance(document, dict) and "images" in document:
        known = _known(pictures, '"images"')
        return {known.spec.name: known.from_base64(document["images"])}
    if not isinstance(document, dict) or "data" not in document:
        raise RefusedError(400, f'the body must be a JSON object with the field "data" for {_listed(inputs)}')
    return _by_name(document["data"], inputs)


def encode(request: Request, outputs: Tensors, labels: Sequence[str] | None) -> Answer:
    """Write outputs in the form that the client asked for."""
    if _wants_npy(request):
        return Answer(200, _encode_npy(next(iter(outputs.values()))), NPY)
    ready = {name: jsonable(array) for name, array in outputs.items()}
    result: Any = next(iter(ready.values())) if len(ready) == 1 else ready
    return json_answer({"result": result} if labels is None else {"result": result, "labels": labels})


def jsonable(array: _Array) -> Any:
    """Return an array in a form that the JSON encoder writes without converting element by element, where there is one."""
    return array.tolist() if array.dtype.kind in "OU" else np.ascontiguousarray(array)


def _by_name(data: Any, inputs: Sequence[TensorSpec]) -> Tensors:
    if not isinstance(data, dict):
        if len(inputs) > 1:
            raise SamplesError(f'"data" must be an object with one entry per input: {_listed(inputs)}')
        return {inputs[0].name: from_nested(data, inputs[0])}
    named = {spec.name: spec for spec in inputs}
    unknown = [name for name in data if name not in named]
    if unknown:
        raise SamplesError(f"unknown input {unknown[0]}: the model's inputs are {_listed(inputs)}")
    return {name: from_nested(nested, named[name]) for name, nested in data.items()}


def _known(pictures: PictureInput | None, what: str) -> PictureInput:
    if pictures is None:
        raise RefusedError(415, f"this model's package does not say how pictures are prepared: send its input instead of {what}")
    return pictures


def _decode_npy(body: bytes, inputs: Sequence[TensorSpec], pictures: PictureInput | None) -> Tensors:
    if len(inputs) > 1:
        raise SamplesError(f"{NPY} holds one array, but the model has several inputs: {_listed(inputs)}; send JSON")
    array = read_npy(body)
    if pictures is not None and pictures.is_picture(array):
        return {inputs[0].name: pictures.from_pixels(array)}
    return {inputs[0].name: as_dtype(array, inputs[0])}


def read_npy(body: bytes) -> _Array:
    """View the array in a `.npy` body; a header that promises more or less than came is refused before memory is taken."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADER_READERS:
            raise ValueError(f"format version {version[0]}.{version[1]} is not known")
        shape, by_column, dtype = _HEADER_READERS[version](stream)
    except (ValueError, SyntaxError, TypeError) as wrong:
        raise SamplesError(f"the body must be one array in the .npy format: {first_line(wrong)}") from wrong
    if dtype.hasobject or dtype.kind not in "fiub":
        raise SamplesError(f"the .npy array must hold plain numbers, not {dtype}")
    content = memoryview(body)[stream.tell() :]
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise SamplesError(f"the .npy header promises {dtype}{list(shape)}, but {len(content)} bytes follow it")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_column else "C")


_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _encode_npy(array: _Array) -> bytes:
    if array.dtype.kind == "O":
        raise RefusedError(406, f"{NPY} cannot carry text; ask for {JSON}")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _wants_npy(request: Request) -> bool:
    accepted = request.headers.get("accept", "*/*").lower()
    return NPY in accepted or (request.media_type == NPY and JSON not in accepted)


def _listed(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, inputs))
