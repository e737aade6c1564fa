"""The OpenAPI document of a scoring server (`GET /openapi.json`), derived from the variant's inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewright.contracts.variant import TensorSpec, VariantConfig
from edgewright.serving.http import documents
from edgewright.serving.http.documents import operation, reading
from edgewright.serving.http.messages import BINARY, JSON, NPY
from edgewright.serving.variants.images import ImageInput

_KINDS = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "O": "string"}


def document(config: VariantConfig, *, model: str, version: int) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a server of `config`."""
    base = f"/v2/models/{model}"
    paths = {
        "/score": ("post", operation("Score samples.", _score_body(config), _score_response(config), name="score")),
        **inference_paths(base),
        f"{base}/ready": ("get", reading("Return 200 if the model is ready.")),
        f"{base}/config": ("get", reading("Describe the configuration of the model, as Triton does.")),
        f"{base}/stats": ("get", reading("Return counts and times of the model, as Triton does.")),
        "/v2/models/stats": ("get", reading("Return counts and times of all models, as Triton does.")),
        "/healthz": ("get", reading("Return the model, version and variant that are served.", public=True)),
    }
    description = "Scores one version of one model."
    return documents.document(f"{model} {version}", version=str(version), description=description, paths=paths)


def swagger(config: VariantConfig, *, model: str, version: int) -> dict[str, Any]:
    """Return the Swagger 2.0 document of a server of `config`."""
    body, answer = _score_body(config)[JSON]["schema"], _score_response(config)[JSON]["schema"]
    return documents.swagger(f"{model} {version}", version=str(version), body=body, answer=answer)


def inference_paths(base: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the routes of the Open Inference Protocol that describe a model and score with it."""
    infer = operation("Score by the Open Inference Protocol 2.", _infer_body(), _infer_response(), name="infer")
    return {f"{base}/infer": ("post", infer), base: ("get", reading("Describe the model."))}


def array_schema(spec: TensorSpec) -> dict[str, Any]:
    """Return the JSON Schema of a tensor as nested arrays."""
    schema: dict[str, Any] = {"type": _KINDS[np.dtype(spec.dtype).kind]}
    for axis in reversed(range(len(spec.shape))):
        size = spec.shape[axis]
        schema = {"type": "array", "items": schema}
        if axis > 0 and isinstance(size, int):  # the first axis counts samples, whatever the graph's batch size is
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _one_or_named(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    named = {
        "type": "object",
        "required": [spec.name for spec in specs],
        "properties": {spec.name: array_schema(spec) for spec in specs},
    }
    return {"anyOf": [array_schema(specs[0]), named]} if len(specs) == 1 else named


def example(inputs: Sequence[TensorSpec]) -> Any:
    """Return values of one sample as JSON holds them: zeros and empty texts; an axis of free size has one element."""
    named = {spec.name: _zeros(spec) for spec in inputs}
    return named if len(named) > 1 else next(iter(named.values()))


def _zeros(spec: TensorSpec) -> Any:
    value: Any = {"object": "", "bool": False}.get(spec.dtype, 0.0 if spec.dtype.startswith("float") else 0)
    for size in reversed(spec.shape[1:]):
        value = [value] * (size if isinstance(size, int) else 1)
    return [value]


def _score_body(config: VariantConfig) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "required": ["data"], "properties": {"data": _one_or_named(config.inputs)}}
    schema["example"] = {"data": example(config.inputs)}
    body: dict[str, Any] = {JSON: {"schema": schema}, NPY: {"schema": {"type": "string", "format": "binary"}}}
    if ImageInput.of(config) is not None:
        images = {"type": "array", "minItems": 1, "items": {"type": "string", "contentEncoding": "base64"}}
        encoded = {"type": "object", "required": ["images"], "properties": {"images": images}}
        body[JSON] = {"schema": {"anyOf": [schema, encoded]}}
        body |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg")}
    return body


def _score_response(config: VariantConfig) -> dict[str, Any]:
    outputs = config.outputs
    named = {"type": "object", "properties": {spec.name: array_schema(spec) for spec in outputs}}
    properties: dict[str, Any] = {"result": array_schema(outputs[0]) if len(outputs) == 1 else named}
    if config.labels:
        properties["labels"] = {"type": "array", "items": {"type": "string", "enum": list(config.labels)}}
    schema = {"type": "object", "required": ["result"], "properties": properties}
    return {JSON: {"schema": schema}, NPY: {"schema": {"type": "string", "format": "binary"}}}


def _infer_body() -> dict[str, Any]:
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string"},
            "data": {},
            "parameters": {"type": "object"},
        },
    }
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": tensor}},
    }
    return {JSON: {"schema": schema}, BINARY: {"schema": {"type": "string", "format": "binary"}}}


def _infer_response() -> dict[str, Any]:
    schema = {"type": "object", "required": ["model_name", "outputs"]}
    return {JSON: {"schema": schema}, BINARY: {"schema": {"type": "string", "format": "binary"}}}
