"""The OpenAPI document of a scoring server (`GET /openapi.json`), derived from the variant's inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewright.contracts.variant import TensorSpec, VariantConfig
from edgewright.serving.http import documents
from edgewright.serving.http.documents import operation, reading
from edgewright.serving.http.messages import JSON, NPY
from edgewright.serving.variants.images import ImageInput

_FORMATS = {"float32": "float", "float64": "double", "int32": "int32", "int64": "int64"}
"""Formats of https://spec.openapis.org/registry/format; generators choose the type of a number by them."""
_KINDS = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "O": "string"}


def document(config: VariantConfig, *, model: str, version: int) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a server of `config`.

    Schemas and operations have names, because generators of clients derive the names of classes and functions from them.
    """
    base = f"/v2/models/{model}"
    score = operation("Score samples.", _score_content(config), _score_answers(), name="score")
    paths = {
        "/score": ("post", score),
        **inference_paths(base),
        f"{base}/ready": ("get", reading("Return 200 if the model is ready.", name="getModelReady")),
        f"{base}/config": ("get", reading("Describe the configuration of the model, as Triton does.", name="getModelConfig")),
        f"{base}/stats": ("get", reading("Return counts and times of the model, as Triton does.", name="getModelStatistics")),
        "/v2/models/stats": (
            "get",
            reading("Return counts and times of all models, as Triton does.", name="getStatisticsOfModels"),
        ),
        "/healthz": (
            "get",
            reading("Return the model, version and variant that are served.", public=True, name="getVariantHealth"),
        ),
    }
    described = documents.document(
        f"{model} {version}", version=str(version), description="Scores one version of one model.", paths=paths
    )
    request, response = _score_request(config), _score_response(config)
    described["components"]["schemas"] |= {"ScoreRequest": request, "ScoreResponse": response, **INFERENCE_SCHEMAS}
    return described


def swagger(config: VariantConfig, *, model: str, version: int) -> dict[str, Any]:
    """Return the Swagger 2.0 document of a server of `config`."""
    body, answer = _score_request(config), _score_response(config)
    return documents.swagger(f"{model} {version}", version=str(version), body=body, answer=answer)


def inference_paths(base: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the routes of the Open Inference Protocol that describe a model and score with it; see `INFERENCE_SCHEMAS`."""
    infer = operation(
        "Score by the Open Inference Protocol 2, which has binary tensors too.",
        {JSON: {"schema": _reference("InferRequest")}},
        {JSON: {"schema": _reference("InferResponse")}},
        name="infer",
    )
    return {f"{base}/infer": ("post", infer), base: ("get", reading("Describe the model.", name="getModel"))}


def array_schema(spec: TensorSpec, *, is_output: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of a tensor as nested arrays.

    An input has at least one sample. A floating-point output may hold null, which stands for NaN and infinity.
    """
    dtype = np.dtype(spec.dtype)
    kind = _KINDS[dtype.kind]
    schema: dict[str, Any] = {"type": [kind, "null"] if is_output and dtype.kind == "f" else kind}
    if dtype.name in _FORMATS:
        schema["format"] = _FORMATS[dtype.name]
    for axis in reversed(range(len(spec.shape))):
        size = spec.shape[axis]
        schema = {"type": "array", "items": schema}
        if axis > 0 and isinstance(size, int):  # the first axis counts samples, whatever the graph's batch size is
            schema |= {"minItems": size, "maxItems": size}
    if spec.shape and not is_output:
        schema |= {"minItems": 1}
    return schema


def example(inputs: Sequence[TensorSpec]) -> Any:
    """Return values of one sample as JSON holds them: zeros and empty texts; an axis of free size has one element."""
    named = {spec.name: _zeros(spec) for spec in inputs}
    return named if len(named) > 1 else next(iter(named.values()))


def _zeros(spec: TensorSpec) -> Any:
    value: Any = {"object": "", "bool": False}.get(spec.dtype, 0.0 if spec.dtype.startswith("float") else 0)
    for size in reversed(spec.shape[1:]):
        value = [value] * (size if isinstance(size, int) else 1)
    return [value]


def _score_request(config: VariantConfig) -> dict[str, Any]:
    """Return the schema of a body: the samples, or images in place of them.

    A model with one input takes an object by name too; the schema leaves that out, because generators have no class for either.
    """
    sample = {"example": {"data": example(config.inputs)}}
    if ImageInput.of(config) is None:
        return _object(["data"], data=_one_or_named(config.inputs)) | sample
    images = {"type": "array", "minItems": 1, "items": {"type": "string", "contentEncoding": "base64"}}
    return _object([], data=_one_or_named(config.inputs), images=images) | {"minProperties": 1, "maxProperties": 1} | sample


def _score_response(config: VariantConfig) -> dict[str, Any]:
    labels = {"labels": {"type": "array", "items": _TEXT}} if config.labels else {}
    return _object(["result"], result=_one_or_named(config.outputs, is_output=True), **labels)


def _one_or_named(specs: Sequence[TensorSpec], *, is_output: bool = False) -> dict[str, Any]:
    schemas = {spec.name: array_schema(spec, is_output=is_output) for spec in specs}
    return schemas[specs[0].name] if len(specs) == 1 else _object(list(schemas), **schemas)


def _score_content(config: VariantConfig) -> dict[str, Any]:
    sample = {"data": example(config.inputs)}
    content: dict[str, Any] = {JSON: {"schema": _reference("ScoreRequest"), "example": sample}, NPY: _BYTES}
    if ImageInput.of(config) is not None:
        content |= dict.fromkeys(("image/png", "image/jpeg"), _BYTES)
    return content


def _score_answers() -> dict[str, Any]:
    return {JSON: {"schema": _reference("ScoreResponse")}, NPY: _BYTES}


def _object(required: Sequence[str], /, **properties: Any) -> dict[str, Any]:
    described = {"type": "object", "properties": properties}
    return described | {"required": list(required)} if required else described


def _reference(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _list(schema: str) -> dict[str, Any]:
    return {"type": "array", "items": _reference(schema)}


_TEXT = {"type": "string"}
_OPEN = {"parameters": {"type": "object"}}
_TENSOR = {
    "name": _TEXT,
    "shape": {"type": "array", "items": {"type": "integer", "format": "int64", "minimum": 0}},
    "datatype": _TEXT,
    "data": {"type": "array", "items": {}},
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}

INFERENCE_SCHEMAS = {
    "InferRequest": _object(["inputs"], id=_TEXT, inputs=_list("InferInput"), outputs=_list("InferRequestedOutput"), **_OPEN),
    "InferInput": _object(["name", "shape", "datatype"], **_TENSOR, **_OPEN),
    "InferRequestedOutput": _object(["name"], name=_TEXT, **_OPEN),
    "InferResponse": _object(
        ["model_name", "model_version", "outputs"],
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        outputs=_list("InferOutput"),
    ),
    "InferOutput": _object(["name", "shape", "datatype"], **_TENSOR, **_OPEN),
}
"""Schemas that `inference_paths` refers to, by name."""
