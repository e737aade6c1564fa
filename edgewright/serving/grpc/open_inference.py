"""`inference.GRPCInferenceService` of the Open Inference Protocol, with Triton's extensions: configuration, statistics, index.

Tensors arrive raw (`raw_input_contents`) or typed (`contents`), and are answered raw, as by Triton.
"""

from __future__ import annotations

import time
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import ParseDict

from edgewright.contracts.samples import Tensors
from edgewright.errors import NotFoundError, SamplesError
from edgewright.serving.grpc.calls import Method, streamed, unary
from edgewright.serving.grpc.open_inference_messages import MESSAGES, SERVICE
from edgewright.serving.variants.app import ScoringApp
from edgewright.serving.variants.inference_request import (
    InferInput,
    InferOutput,
    InferRequest,
    check,
    read_tensors,
    selected,
    to_binary,
)
from edgewright.serving.variants.model_description import DATATYPES, server_metadata

_CONTENTS: dict[str, tuple[str, str]] = {
    "BOOL": ("bool_contents", "bool"),
    "UINT8": ("uint_contents", "uint32"),
    "UINT16": ("uint_contents", "uint32"),
    "UINT32": ("uint_contents", "uint32"),
    "UINT64": ("uint64_contents", "uint64"),
    "INT8": ("int_contents", "int32"),
    "INT16": ("int_contents", "int32"),
    "INT32": ("int_contents", "int32"),
    "INT64": ("int64_contents", "int64"),
    "FP32": ("fp32_contents", "float32"),
    "FP64": ("fp64_contents", "float64"),
    "BYTES": ("bytes_contents", "object"),
}
"""Field of the typed values of a datatype, and their type there; FP16 travels raw only."""
_INTEGER_TYPES = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
_DATA_TYPES = ("INVALID", "BOOL", *_INTEGER_TYPES, "FP16", "FP32", "FP64", "STRING", "BF16")
"""Names of the enumeration DataType in model_config.proto, by number and without the prefix TYPE_."""
_KIND_CPU = 2


def handlers(app: ScoringApp) -> grpc.GenericRpcHandler:
    """Return the handlers of the service for one model."""
    service = _Service(app)
    infer = Method(MESSAGES["ModelInferRequest"], service.infer, is_scoring=True)
    calls = {
        "ServerLive": Method(MESSAGES["ServerLiveRequest"], service.live, is_public=True),
        "ServerReady": Method(MESSAGES["ServerReadyRequest"], service.ready, is_public=True),
        "ModelReady": Method(MESSAGES["ModelReadyRequest"], service.model_ready),
        "ServerMetadata": Method(MESSAGES["ServerMetadataRequest"], service.server_metadata),
        "ModelMetadata": Method(MESSAGES["ModelMetadataRequest"], service.model_metadata),
        "ModelConfig": Method(MESSAGES["ModelConfigRequest"], service.configuration),
        "ModelStatistics": Method(MESSAGES["ModelStatisticsRequest"], service.statistics),
        "RepositoryIndex": Method(MESSAGES["RepositoryIndexRequest"], service.index),
        "ModelInfer": infer,
    }
    table = {name: unary(app, call) for name, call in calls.items()}
    table["ModelStreamInfer"] = streamed(app, infer._replace(handler=service.infer_in_stream), _failed)
    return grpc.method_handlers_generic_handler(SERVICE, table)


class _Service:
    """The calls of the service."""

    def __init__(self, app: ScoringApp) -> None:
        self._app = app
        self._model = app.description

    async def live(self, _request: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def ready(self, _request: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=not self._app.draining)

    async def model_ready(self, request: Any) -> Any:
        self._check_model(request.name, request.version)
        return MESSAGES["ModelReadyResponse"](ready=True)

    async def server_metadata(self, _request: Any) -> Any:
        return ParseDict(server_metadata(), MESSAGES["ServerMetadataResponse"]())

    async def model_metadata(self, request: Any) -> Any:
        self._check_model(request.name, request.version)
        return ParseDict(self._model.metadata(), MESSAGES["ModelMetadataResponse"]())

    async def configuration(self, request: Any) -> Any:
        self._check_model(request.name, request.version)
        document = self._model.configuration()
        for tensor in (*document["input"], *document["output"]):
            tensor["data_type"] = _DATA_TYPES.index(tensor["data_type"].removeprefix("TYPE_"))
        for group in document["instance_group"]:
            group["kind"] = _KIND_CPU
        return ParseDict({"config": document}, MESSAGES["ModelConfigResponse"]())

    async def statistics(self, request: Any) -> Any:
        if request.name:
            self._check_model(request.name, request.version)
        document = self._model.statistics(self._app.statistics, self._app.batcher)
        return ParseDict(document, MESSAGES["ModelStatisticsResponse"]())

    async def index(self, _request: Any) -> Any:
        return ParseDict({"models": self._model.index()}, MESSAGES["RepositoryIndexResponse"]())

    async def infer_in_stream(self, request: Any) -> Any:
        return MESSAGES["ModelStreamInferResponse"](infer_response=await self.infer(request))

    async def infer(self, request: Any) -> Any:
        started_s = time.perf_counter()
        self._check_model(request.model_name, request.model_version)
        infer = _infer_request(request)
        config = self._model.config
        decoded = read_tensors(infer, memoryview(b""), config.inputs, self._app.image_input, may_mix=False)
        check(infer, config.outputs)

        def encode(outputs: Tensors, _classes: list[str] | None) -> Any:
            response = MESSAGES["ModelInferResponse"](
                model_name=self._model.model, model_version=str(self._model.version), id=request.id
            )
            for output, array in selected(infer, outputs, config.labels):
                response.outputs.add(name=output.name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
                response.raw_output_contents.append(to_binary(array))
            return response

        return await self._app.answer(decoded, encode, started_s)

    def _check_model(self, name: str, version: str) -> None:
        if name != self._model.model or version not in ("", str(self._model.version)):
            asked = f"{name} version {version}" if version else name
            raise NotFoundError(
                f"{asked} is not served here: the only model is {self._model.model}, version {self._model.version}"
            )


def _infer_request(request: Any) -> InferRequest:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise SamplesError(f"raw_input_contents must have one entry per input, {len(request.inputs)}, not {len(raw)}")
    contents: list[Any] = [memoryview(each) for each in raw] or [_typed(each) for each in request.inputs]
    inputs = tuple(
        InferInput(
            name=tensor.name,
            shape=tuple(tensor.shape),
            datatype=tensor.datatype,
            data=data,
            parameters=_parameters(tensor.parameters),
        )
        for tensor, data in zip(request.inputs, contents, strict=True)
    )
    outputs = tuple(InferOutput(name=output.name, parameters=_parameters(output.parameters)) for output in request.outputs)
    return InferRequest(inputs=inputs, id=request.id, outputs=outputs, parameters=_parameters(request.parameters))


def _typed(tensor: Any) -> npt.NDArray[Any] | None:
    """Return the typed values of a tensor; None for an unknown datatype, which is refused later."""
    if tensor.datatype not in _CONTENTS:
        return None
    field, dtype = _CONTENTS[tensor.datatype]
    others = [descriptor.name for descriptor, _ in tensor.contents.ListFields() if descriptor.name != field]
    if others:
        raise SamplesError(f"input {tensor.name}: {tensor.datatype} values must be in {field}, not in {others[0]}")
    values = list(getattr(tensor.contents, field))
    if dtype != "object":
        return np.array(values, dtype)
    try:
        return np.array([value.decode() for value in values], object)
    except UnicodeDecodeError as error:
        raise SamplesError(f"input {tensor.name}: BYTES must be UTF-8 strings: {error}") from error


def _parameters(parameters: Any) -> dict[str, Any]:
    chosen = {name: (value, value.WhichOneof("choice")) for name, value in parameters.items()}
    return {name: getattr(value, field) for name, (value, field) in chosen.items() if field}


def _failed(text: str) -> Any:
    return MESSAGES["ModelStreamInferResponse"](error_message=text)
