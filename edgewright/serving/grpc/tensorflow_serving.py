"""`tensorflow.serving.PredictionService`: `Predict` and `GetModelMetadata`.

Clients of TensorFlow Serving and of Azure ML's FPGA services use it. Tensors are named as in the model; the suffix `:0` of
TensorFlow's tensor names may follow. A text tensor is one encoded image per element, if the model has a preprocessing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import numpy as np

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import NotFoundError, SamplesError
from edgewright.serving.grpc.calls import Method, unary
from edgewright.serving.grpc.tensorflow_messages import MESSAGES, SERVICE, TENSOR_MESSAGES
from edgewright.serving.grpc.tensorflow_tensors import DTYPES, to_array, to_proto
from edgewright.serving.variants.app import ScoringApp
from edgewright.serving.variants.tensors import as_dtype

SIGNATURE = "serving_default"
PREDICT_METHOD = "tensorflow/serving/predict"

_SUFFIX = ":0"
_SIGNATURE_FIELD = "signature_def"


def handlers(app: ScoringApp) -> grpc.GenericRpcHandler:
    """Return the handlers of the service for one model."""
    service = _Service(app)
    calls = {
        "Predict": Method(MESSAGES["PredictRequest"], service.predict, is_scoring=True),
        "GetModelMetadata": Method(MESSAGES["GetModelMetadataRequest"], service.metadata),
    }
    return grpc.method_handlers_generic_handler(SERVICE, {name: unary(app, call) for name, call in calls.items()})


class _Service:
    """The calls of the service."""

    def __init__(self, app: ScoringApp) -> None:
        self._app = app
        self._model = app.description

    async def predict(self, request: Any) -> Any:
        started_s = time.perf_counter()
        config = self._model.config
        self._check_model(request.model_spec)
        names = _names(request.output_filter or self._default_outputs(request.inputs), config.outputs, "output")
        decoded = self._inputs(request.inputs)

        def encode(outputs: Tensors, _classes: list[str] | None) -> Any:
            response = MESSAGES["PredictResponse"](model_spec=self._spec())
            for asked, name in names.items():
                response.outputs[asked].CopyFrom(to_proto(outputs[name]))
            return response

        return await self._app.answer(decoded, encode, started_s)

    async def metadata(self, request: Any) -> Any:
        self._check_model(request.model_spec)
        unknown = [field for field in request.metadata_field if field != _SIGNATURE_FIELD]
        if unknown or not request.metadata_field:
            raise SamplesError(f"metadata_field must be {_SIGNATURE_FIELD}, not {', '.join(unknown) or 'absent'}")
        signature = TENSOR_MESSAGES["SignatureDef"](method_name=PREDICT_METHOD)
        for specs, described in ((self._model.config.inputs, signature.inputs), (self._model.config.outputs, signature.outputs)):
            for spec in specs:
                described[spec.name].CopyFrom(_tensor_info(spec))
        signatures = MESSAGES["SignatureDefMap"]()
        signatures.signature_def[SIGNATURE].CopyFrom(signature)
        response = MESSAGES["GetModelMetadataResponse"](model_spec=self._spec(signature=""))
        content = response.metadata[_SIGNATURE_FIELD]
        content.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        content.value = signatures.SerializeToString()
        return response

    def _inputs(self, sent: Any) -> Tensors:
        specs = {spec.name: spec for spec in self._model.config.inputs}
        tensors: Tensors = {}
        for asked, name in _names(sent, self._model.config.inputs, "input").items():
            array = to_array(sent[asked], asked)
            image = self._app.image_input
            if image is not None and name == image.spec.name and array.dtype.kind == "O":
                tensors[name] = image.from_files(list(array.reshape(-1)))
            elif image is not None and name == image.spec.name and image.is_image(array):
                tensors[name] = image.from_pixels(array)
            else:
                tensors[name] = as_dtype(_texts(array, asked), specs[name])
        return tensors

    def _default_outputs(self, sent: Iterable[str]) -> list[str]:
        """Return the outputs of a request that names none, in the notation of its inputs.

        Azure ML's client sends no names of outputs, and looks for `scores:0` in the answer.
        """
        known = {spec.name for spec in self._model.config.inputs}
        suffix = _SUFFIX if any(name not in known and name.endswith(_SUFFIX) for name in sent) else ""
        return [spec.name + suffix for spec in self._model.config.outputs]

    def _check_model(self, spec: Any) -> None:
        asked, version = spec.name, spec.version.value
        if asked not in ("", self._model.model) or (spec.HasField("version") and version != self._model.version):
            raise NotFoundError(
                f"{asked} version {version} is not served here: the only model is {self._model.model}, "
                f"version {self._model.version}"
            )
        if spec.signature_name not in ("", SIGNATURE):
            raise SamplesError(f"signature_name must be {SIGNATURE} or empty, not {spec.signature_name}")

    def _spec(self, signature: str = SIGNATURE) -> Any:
        version = MESSAGES["Int64Value"](value=self._model.version)
        return MESSAGES["ModelSpec"](name=self._model.model, version=version, signature_name=signature)


def _names(asked: Iterable[str], specs: Sequence[TensorSpec], kind: str) -> dict[str, str]:
    """Return the model's name of each tensor that a client names."""
    known = {spec.name for spec in specs}
    names = {name: name if name in known else name.removesuffix(_SUFFIX) for name in asked}
    unknown = [name for name, own in names.items() if own not in known]
    if unknown:
        raise SamplesError(f"unknown {kind} {unknown[0]}: the model's {kind}s are {', '.join(map(str, specs))}")
    if len(set(names.values())) < len(names):
        raise SamplesError(f"each {kind} must be named once, but one was named with and without {_SUFFIX}")
    return names


def _texts(array: Any, name: str) -> Any:
    if array.dtype.kind != "O":
        return array
    try:
        return np.array([value.decode() for value in array.reshape(-1)], object).reshape(array.shape)
    except UnicodeDecodeError as error:
        raise SamplesError(f"input {name} must be text in UTF-8: {error}") from error


def _tensor_info(spec: TensorSpec) -> Any:
    info = TENSOR_MESSAGES["TensorInfo"](name=spec.name + _SUFFIX, dtype=DTYPES[np.dtype(spec.dtype).name])
    for size in spec.shape:
        info.tensor_shape.dim.add(size=size if isinstance(size, int) else -1)
    return info
