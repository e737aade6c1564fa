"""The JSON protocol of `POST /score`: `{"data": ...}`, or one array as `application/x-npy`.

    {"data": [[...], ...]}                one input
    {"data": {"a": [...], "b": [...]}}    inputs by name
    {"images": ["iVBORw0...", ...]}       images in base64, for a model whose package has a preprocessing (images.py)
    -> {"result": ..., "labels": [...]}   one output as lists or several by name; labels if the model has class names

A `.npy` body is a view on the received bytes. The response to it is the first output as `.npy`, unless the client accepts only
JSON.
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
from edgewright.serving.http.messages import FORM, JSON, NPY, HttpError, Request, Response, json_response, parse_json
from edgewright.serving.variants.images import ImageInput
from edgewright.serving.variants.tensors import as_dtype, from_nested, may_hold_booleans, reshaped

IMAGE = "image/"
_ANYTHING = "*/*"

_Array = npt.NDArray[Any]


def decode(request: Request, inputs: Sequence[TensorSpec], image_input: ImageInput | None = None) -> Tensors:
    """Read the inputs of a scoring request; pixels and encoded images are prepared by `image_input`, if the model has one."""
    if request.media_type == NPY:
        return _decode_npy(request.body, inputs, image_input)
    if request.media_type.startswith(IMAGE):
        preparing = _required(image_input, request.media_type)
        return {preparing.spec.name: preparing.from_files([request.body])}
    document = _parse(request)
    if isinstance(document, dict) and "images" in document:
        preparing = _required(image_input, '"images"')
        return {preparing.spec.name: preparing.from_base64(document["images"])}
    if not isinstance(document, dict) or "data" not in document:
        raise HttpError(400, f'the body must be a JSON object with the field "data" for {_listed(inputs)}')
    return _by_name(document["data"], inputs, may_mix=may_hold_booleans(request.body))


def encode(request: Request, outputs: Tensors, labels: Sequence[str] | None) -> Response:
    """Write outputs in the format that the client accepts."""
    if _accepts_npy(request):
        return Response(200, _encode_npy(next(iter(outputs.values()))), NPY)
    result: Any
    if len(outputs) == 1:
        (array,) = outputs.values()
        result = jsonable(array)
    else:
        result = {name: jsonable(array) for name, array in outputs.items()}
    return json_response({"result": result} if labels is None else {"result": result, "labels": labels})


def jsonable(array: _Array) -> Any:
    """Return an array that the JSON encoder writes directly, or nested lists if it holds text or objects."""
    if array.dtype.kind in "OU":
        return array.tolist()
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _parse(request: Request) -> Any:
    """Parse a JSON body; without a Content-Type, or with the one that HTTP clients send by default, if it is JSON."""
    if request.media_type in (JSON, ""):
        return parse_json(request.body, "the body")
    unsupported = HttpError(415, f"Content-Type must be {JSON} or {NPY}, not {request.media_type}")
    if request.media_type != FORM:  # the default of urllib and curl
        raise unsupported
    try:
        return parse_json(request.body, "the body")
    except HttpError as error:
        if request.body.lstrip()[:1] in (b"{", b"["):  # JSON with a mistake, as NaN, not a form
            raise
        raise unsupported from error


def _by_name(data: Any, inputs: Sequence[TensorSpec], *, may_mix: bool) -> Tensors:
    if not isinstance(data, dict):
        if len(inputs) > 1:
            raise SamplesError(f'"data" must be an object with one entry per input: {_listed(inputs)}')
        return {inputs[0].name: from_nested(data, inputs[0], may_mix=may_mix)}
    specs = {spec.name: spec for spec in inputs}
    unknown = [name for name in data if name not in specs]
    if unknown:
        raise SamplesError(f"unknown input {unknown[0]}: the model's inputs are {_listed(inputs)}")
    return {name: from_nested(nested, specs[name], may_mix=may_mix) for name, nested in data.items()}


def _required(image_input: ImageInput | None, subject: str) -> ImageInput:
    if image_input is None:
        raise HttpError(
            415, f"{subject} needs a preprocessing, but the package of this model has none: send the input of the model"
        )
    return image_input


def _decode_npy(body: bytes, inputs: Sequence[TensorSpec], image_input: ImageInput | None) -> Tensors:
    if len(inputs) > 1:
        raise SamplesError(f"{NPY} holds one array, but the model has several inputs: {_listed(inputs)}; send JSON")
    array = read_npy(body)
    if image_input is not None and image_input.is_image(array):
        return {inputs[0].name: image_input.from_pixels(array)}
    return {inputs[0].name: as_dtype(array, inputs[0])}


def read_npy(body: bytes) -> _Array:
    """Return a view on the array in a `.npy` body; memory is allocated only after the size was checked.

    Raises:
        SamplesError: the body is not `.npy`, holds objects, or has more or fewer bytes than its header states.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADER_READERS:
            raise ValueError(f"unknown format version {version[0]}.{version[1]}")
        shape, by_column, dtype = _HEADER_READERS[version](stream)
    except Exception as error:  # NumPy evaluates the header as Python text, which fails in many ways
        raise SamplesError(f"the body must be one array in the .npy format: {first_line(error)}") from error
    if dtype.hasobject or dtype.kind not in "fiub":
        raise SamplesError(f"the .npy array must hold plain numbers, not {dtype}")
    if any(size < 0 for size in shape):
        raise SamplesError(f"the .npy header must promise sizes of 0 or more, not {list(shape)}")
    content = memoryview(body)[stream.tell() :]
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise SamplesError(f"the .npy header declares {dtype}{list(shape)}, but {len(content)} bytes follow it")
    return reshaped(np.frombuffer(content, dtype), shape, "the .npy array", order="F" if by_column else "C")


_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _encode_npy(array: _Array) -> bytes:
    if array.dtype.kind == "O":
        raise HttpError(406, f"{NPY} cannot carry text; ask for {JSON}")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _accepts_npy(request: Request) -> bool:
    """Return True if the client accepts `.npy` and not JSON, or both and has sent `.npy`: generated clients accept both."""
    accepted = request.headers.get("accept", _ANYTHING).lower()
    if accepted == _ANYTHING:
        return request.media_type == NPY
    if request.media_type == NPY:
        return NPY in accepted or JSON not in accepted
    return NPY in accepted and JSON not in accepted


def _listed(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, inputs))
