"""The Open Inference Protocol, version 2, over HTTP: JSON tensors, and the binary tensor data extension.

https://github.com/kserve/open-inference-protocol (rest/inference_rest.yaml) and its binary tensor data extension: the body is a
JSON object of `Inference-Header-Content-Length` bytes, followed by the raw tensors in the order of the inputs, little-endian,
row by row. A text element is four bytes of length and UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.serving.http.messages import BINARY, HttpError, Request, Response, json_response
from edgewright.serving.variants.images import ImageInput
from edgewright.serving.variants.inference_request import InferRequest, read_tensors, selected, to_binary
from edgewright.serving.variants.json_protocol import jsonable
from edgewright.serving.variants.model_description import DATATYPES
from edgewright.serving.variants.tensors import may_hold_booleans

HEADER_LENGTH = "inference-header-content-length"

_LONGEST_NUMBER = 20
"""Digits of a length; Python refuses to convert some thousands."""
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
    rest = memoryview(request.body)[length:]
    return infer, read_tensors(infer, rest, inputs, image_input, may_mix=may_hold_booleans(request.body))


def encode(infer: InferRequest, outputs: Tensors, *, model: str, version: int, labels: Sequence[str] = ()) -> Response:
    """Write the requested outputs of a checked request (all, if it names none), each as JSON or binary as requested."""
    all_binary = infer.parameters.get("binary_data_output") is True
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output, array in selected(infer, outputs, labels):
        entry: dict[str, Any] = {"name": output.name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
        if output.parameters.get("binary_data", all_binary):
            blobs.append(to_binary(array))
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


def _header_length(request: Request) -> int:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return len(request.body)
    if not text.isdecimal() or len(text) > _LONGEST_NUMBER or int(text) > len(request.body):
        raise HttpError(400, f"{HEADER_LENGTH} must be at most the body's {len(request.body)} bytes, not {text[:40]!r}")
    return int(text)
