"""Score with one loaded variant: the application and its routes.

read the body     up to the size limit (http/application.py)
decode            JSON or .npy (json_protocol.py, float_lists.py), Open Inference Protocol (open_inference.py)
prepare           pixels and images, as the variant's config states (images.py)
check             against the variant's inputs; a mismatch is a 400 that states what is expected and what was received
score             in a worker thread, with other waiting requests (batching.py), so that health checks are answered meanwhile
find the fault    a run that fails only on the values of this request is a 400 as well (fault_attribution.py)
encode, count     (statistics.py)

Documents about the model are in model_description.py and openapi.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Set
from typing import Any, TypeVar

from accel.backends.backend import Session
from edgewright.contracts import wire
from edgewright.contracts.samples import Tensors, check_inputs
from edgewright.contracts.variant import Measure, VariantConfig
from edgewright.serving.http import docs_page
from edgewright.serving.http.application import HttpApp, Route, ServingLimits, get, post
from edgewright.serving.http.keys import KeyFile
from edgewright.serving.http.messages import TEXT, HttpError, Pending, Request, Response, json_response
from edgewright.serving.statistics import ServedModel, Statistics, predicted_classes
from edgewright.serving.variants import json_protocol, open_inference, openapi
from edgewright.serving.variants.batching import Batcher
from edgewright.serving.variants.fault_attribution import FaultAttribution
from edgewright.serving.variants.float_lists import FloatLists
from edgewright.serving.variants.images import ImageInput
from edgewright.serving.variants.inference_request import check
from edgewright.serving.variants.model_description import ModelDescription, server_metadata
from edgewright.serving.variants.watchdog import DEFAULT_LIMIT_S, watch

Answer = TypeVar("Answer")
Encode = Callable[[Tensors, list[str] | None], Answer]
Deliver = Callable[[Answer | Exception], None]


class ScoringApp(HttpApp):
    """Serve one variant of one version of a model."""

    def __init__(
        self,
        session: Session,
        config: VariantConfig,
        *,
        model: str,
        version: int,
        limits: ServingLimits | None = None,
        known_good: Tensors | None = None,
        keys: KeyFile | None = None,
        inference_timeout_s: float = DEFAULT_LIMIT_S,
        queue_timeout_s: float | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            session: the loaded model.
            config: of the variant.
            model: name in the routes.
            version: of the model.
            limits: of the server.
            known_good: an input that the model is known to score (fault_attribution.py).
            keys: of the service; None: no key is needed.
            inference_timeout_s: limit of one run (watchdog.py).
            queue_timeout_s: limit of the time for which a request waits for the model; None: it waits for its turn.
        """
        served = ServedModel(
            model=model,
            version=version,
            variant=config.variant,
            backend=session.describe()["backend"],
            precision=config.precision.value,
        )
        super().__init__(Statistics(served), limits=limits, keys=keys)
        self._session = session
        self.description = ModelDescription(model=model, version=version, config=config, merging=_may_merge(config))
        attributing = FaultAttribution(session, known_good)
        self.batcher = Batcher(attributing, merging=self.description.merging, queue_timeout_s=queue_timeout_s)
        self._config = config
        self._copies = frozenset(spec.name for spec in config.outputs if spec.measure == Measure.COPY)
        self.image_input = ImageInput.of(config)
        self._float_lists = FloatLists.of(config.inputs)
        self._model, self._version = model, version
        self._inference_timeout_s = inference_timeout_s
        self._routes = self._make_routes()

    def watch(self, connections: Set[Any]) -> None:
        """Start the watchdog, which ends this process when a run of the model takes too long (watchdog.py)."""
        watch(self, self.batcher, connections, self._inference_timeout_s)

    def close(self) -> None:
        """End the worker thread; call it when no request is open."""
        self.batcher.close()

    def unknown_path(self, path: str) -> str:
        """Return the message for a path without a route; another model is named as such."""
        if path.startswith("/v2/models/"):
            return f"{path} is not served here: the only model is {self._model}, version {self._version}"
        return super().unknown_path(path)

    def _make_routes(self) -> dict[str, Route]:
        base = f"/v2/models/{self._model}"
        routes = {
            "/score": post(self._score),
            "/healthz": get(self._health, public=True),
            "/stats": get(self._stats),
            "/metrics": get(self._metrics),
            "/openapi.json": get(self._openapi),
            "/swagger.json": get(self._swagger),
            "/docs": get(docs_page.answer, public=True),
            "/": get(self._healthy, public=True),
            "/health/live": get(self._live, public=True),
            "/health/ready": get(self._ready, public=True),
            "/v2": get(self._server_metadata),
            "/v2/models/stats": get(self._model_stats),
            "/v2/repository/index": Route(("POST",), self._repository_index),
            "/v2/health/live": get(self._live, public=True),
            "/v2/health/ready": get(self._ready, public=True),
        }
        for model in (base, f"{base}/versions/{self._version}"):
            routes[model] = get(self._model_metadata)
            routes[f"{model}/ready"] = get(self._model_ready)
            routes[f"{model}/config"] = get(self._model_config)
            routes[f"{model}/stats"] = get(self._model_stats)
            routes[f"{model}/infer"] = post(self._infer)
        return routes

    def submit(
        self, decoded: Tensors, encode: Encode[Answer], started_s: float, deliver: Callable[[Answer | Exception], None]
    ) -> None:
        """Score one request and count it.

        Args:
            decoded: its inputs.
            encode: writes the answer from the outputs and the predicted classes.
            started_s: `time.perf_counter()` at its arrival.
            deliver: takes the answer, or the error.

        Raises:
            SamplesError: the inputs do not fit the model.
        """
        inputs = check_inputs(decoded, self._config.inputs)
        ready_s = time.perf_counter()

        def finish(outputs: Tensors | Exception) -> None:
            if isinstance(outputs, Exception):
                deliver(outputs)
                return
            ran_s = time.perf_counter()
            try:
                classes = self._classes(outputs)
                answer = encode(outputs, classes)
            except Exception as error:  # noqa: BLE001 - becomes the response
                deliver(error)
                return
            ended_s = time.perf_counter()
            self.statistics.scored(len(next(iter(inputs.values()))), ended_s - started_s, classes or ())
            self.statistics.steps(ready_s - started_s, ended_s - ran_s)
            deliver(answer)

        self.batcher.submit(inputs, finish)

    async def answer(self, decoded: Tensors, encode: Encode[Answer], started_s: float) -> Answer:
        """Score one request and count it, as `submit` does; return the answer.

        Raises:
            SamplesError: the inputs do not fit the model.
            InferenceError: the model failed.
        """
        delivered: asyncio.Future[Answer | Exception] = asyncio.get_running_loop().create_future()

        def deliver(answer: Answer | Exception) -> None:
            if not delivered.done():  # otherwise the client has left
                delivered.set_result(answer)

        self.submit(decoded, encode, started_s, deliver)
        answer = await delivered
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _score(self, request: Request) -> Pending | Awaitable[Response]:
        started_s = time.perf_counter()
        if request.media_type.startswith(json_protocol.IMAGE):
            return self._score_image(request, started_s)
        decoded = None if self._float_lists is None else self._float_lists.decode(request)
        if decoded is None:
            decoded = json_protocol.decode(request, self._config.inputs, self.image_input)
        pending = Pending()
        self.submit(decoded, self._encoding(request), started_s, pending.deliver)
        return pending

    async def _score_image(self, request: Request, started_s: float) -> Response:
        """Decode in a thread, because that takes as long as a small model."""
        decoded = await asyncio.to_thread(json_protocol.decode, request, self._config.inputs, self.image_input)
        return await self.answer(decoded, self._encoding(request), started_s)

    def _encoding(self, request: Request) -> Encode[Response]:
        has_labels = bool(self._config.labels)
        return lambda outputs, classes: json_protocol.encode(request, outputs, classes if has_labels else None)

    def _classes(self, outputs: Tensors) -> list[str] | None:
        """Return the predicted classes in the first output that is no copy of an input."""
        if self._copies:
            computed = {name: array for name, array in outputs.items() if name not in self._copies}
            outputs = computed or outputs
        return predicted_classes(outputs, self._config.labels, self._config.class_values)

    def _infer(self, request: Request) -> Pending:
        started_s = time.perf_counter()
        infer, decoded = open_inference.decode(request, self._config.inputs, self.image_input)
        check(infer, self._config.outputs)

        def encode(outputs: Tensors, _classes: list[str] | None) -> Response:
            return open_inference.encode(infer, outputs, model=self._model, version=self._version, labels=self._config.labels)

        pending = Pending()
        self.submit(decoded, encode, started_s, pending.deliver)
        return pending

    def _health(self, _request: Request) -> Response:
        document = {"status": "ok", "model": self._model, "version": self._version, "variant": self._config.variant}
        return json_response(document)

    def _stats(self, _request: Request) -> Response:
        return json_response({**wire.to_plain(self.statistics.summary()), "runs_on": self._session.describe()})

    def _metrics(self, _request: Request) -> Response:
        return Response(200, self.statistics.prometheus().encode(), TEXT)

    def _openapi(self, _request: Request) -> Response:
        return json_response(openapi.document(self._config, model=self._model, version=self._version))

    def _swagger(self, _request: Request) -> Response:
        return json_response(openapi.swagger(self._config, model=self._model, version=self._version))

    def _server_metadata(self, _request: Request) -> Response:
        return json_response(server_metadata())

    def _healthy(self, _request: Request) -> Response:
        return Response(200, b"Healthy", "text/plain; charset=utf-8")

    def _live(self, _request: Request) -> Response:
        return json_response({"live": True})

    def _ready(self, _request: Request) -> Response:
        if self.draining:
            raise HttpError(503, "the server ends: send requests to another one")
        return json_response({"ready": True})

    def _model_ready(self, _request: Request) -> Response:
        return json_response({"name": self._model, "ready": True})

    def _model_metadata(self, _request: Request) -> Response:
        return json_response(self.description.metadata())

    def _model_config(self, _request: Request) -> Response:
        return json_response(self.description.configuration())

    def _model_stats(self, _request: Request) -> Response:
        return json_response(self.description.statistics(self.statistics, self.batcher))

    def _repository_index(self, _request: Request) -> Response:
        return json_response(self.description.index())


def _may_merge(config: VariantConfig) -> bool:
    """Return True if requests can share a run: the batch axis is free, and no sample changes the outputs of another."""
    return config.independent_samples and all(isinstance(spec.shape[0], str) for spec in config.inputs)
