"""The scoring server: a bare ASGI application around one loaded variant.

    read the body     up to the size limit
    decode            JSON or .npy (json_protocol.py), Open Inference Protocol (open_inference.py)
    prepare           pixels and images, as the variant's config states (images.py)
    check             against the variant's inputs; a mismatch is a 400 that states what is expected and what was received
    score             in a worker thread, with other waiting requests (batching.py), so that health checks are answered meanwhile
    find the fault    a run that fails only on the values of this request is a 400 as well (fault_attribution.py)
    encode, count     (statistics.py)

There is no web framework, because it would cost more than a small model (benchmarks/serving.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from accel.backends.backend import Session
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.samples import Tensors, check_inputs
from edgewright.contracts.variant import VariantConfig
from edgewright.errors import BadInputError, EdgewrightError, NotFoundError
from edgewright.serving import json_protocol, open_inference, openapi
from edgewright.serving.batching import Batcher
from edgewright.serving.fault_attribution import FaultAttribution
from edgewright.serving.http_types import TEXT, HttpError, Request, Response, error_response, json_response
from edgewright.serving.images import ImageInput
from edgewright.serving.statistics import ServedModel, Statistics, predicted_classes

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Request], Awaitable[Response]]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """Bytes of request bodies that the server holds in memory: per request, and of all requests together."""

    max_body_bytes: int = 16 * _MIB
    max_held_bytes: int = 128 * _MIB


class ScoringApp:
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
    ) -> None:
        served = ServedModel(
            model=model,
            version=version,
            variant=config.variant,
            backend=session.describe()["backend"],
            precision=config.precision.value,
        )
        self.statistics = Statistics(served)
        self._session = session
        self.batcher = Batcher(FaultAttribution(session, known_good), merging=_may_merge(config))
        self._config = config
        self._image_input = ImageInput.of(config)
        self._model, self._version = model, version
        self._limits = limits or ServingLimits()
        self.draining = False
        """True once the process is about to end: every response then closes its connection."""
        self._held_bytes = 0
        self._routes = self._make_routes()
        self._scoring = {path for path, (method, _) in self._routes.items() if method == "POST"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        body: list[bytes] = []
        try:
            response = await self._respond(scope, receive, body)
            await _send(response, send, last=self.draining, with_body=scope["method"] != "HEAD")
        finally:
            self._held_bytes -= sum(map(len, body))

    def close(self) -> None:
        """End the worker thread; call it when no request is open."""
        self.batcher.close()

    async def _respond(self, scope: Scope, receive: Receive, body: list[bytes]) -> Response:
        scoring = scope["path"] in self._scoring
        try:
            handler = self._find(scope["method"], scope["path"])
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            _check_encoding(headers)
            await self._read_body(headers, receive, body)
            return await handler(Request(headers, b"".join(body)))
        except EdgewrightError as error:
            if scoring:
                self._count(error)
            return error_response(error)
        except Exception:  # a defect: counted here; uvicorn answers 500 and logs the traceback
            if scoring:
                self.statistics.failed()
            raise

    def _count(self, error: EdgewrightError) -> None:
        if isinstance(error, BadInputError):
            self.statistics.rejected()
        else:
            self.statistics.failed()

    async def _read_body(self, headers: dict[str, str], receive: Receive, body: list[bytes]) -> None:
        """Collect the body into `body`.

        Raises:
            HttpError: the body is too large (413), cut off (400), or one too many (503).
        """
        content_length = headers.get("content-length", "0")
        received = 0
        self._check_size(int(content_length) if content_length.isdecimal() else 0)  # the parser limits it to 64 bits
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HttpError(400, "the connection ended before the whole body had arrived")
            chunk = message.get("body", b"")
            received += len(chunk)
            self._check_size(received)
            if self._held_bytes + len(chunk) > self._limits.max_held_bytes:
                raise HttpError(503, "the memory for waiting requests is full: try again in a second", (("retry-after", "1"),))
            body.append(chunk)
            self._held_bytes += len(chunk)
            if not message.get("more_body"):
                return

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.max_body_bytes:
            raise HttpError(413, f"a body must have at most {self._limits.max_body_bytes} bytes, not {size_bytes}")

    def _find(self, method: str, path: str) -> Handler:
        route = self._routes.get(path)
        if route is None:
            raise NotFoundError(self._unknown(path))
        allowed, handler = route
        if method != allowed and (method, allowed) != ("HEAD", "GET"):
            listed = "GET, HEAD" if allowed == "GET" else allowed
            raise HttpError(405, f"{path} accepts {listed}, not {method}", (("allow", listed),))
        return handler

    def _unknown(self, path: str) -> str:
        if path.startswith("/v2/models/"):
            return f"{path} is not served here: the only model is {self._model}, version {self._version}"
        return f"{path} is not served here; there are {', '.join(self._routes)}"

    def _make_routes(self) -> dict[str, tuple[str, Handler]]:
        base = f"/v2/models/{self._model}"
        routes: dict[str, tuple[str, Handler]] = {
            "/score": ("POST", self._score),
            "/healthz": ("GET", self._health),
            "/stats": ("GET", self._stats),
            "/metrics": ("GET", self._metrics),
            "/openapi.json": ("GET", self._openapi),
            "/v2": ("GET", self._server_metadata),
            "/v2/health/live": ("GET", self._live),
            "/v2/health/ready": ("GET", self._ready),
        }
        for model in (base, f"{base}/versions/{self._version}"):
            routes[model] = ("GET", self._model_metadata)
            routes[f"{model}/ready"] = ("GET", self._model_ready)
            routes[f"{model}/infer"] = ("POST", self._infer)
        return routes

    async def _score(self, request: Request) -> Response:
        started = time.perf_counter()
        inputs = check_inputs(await self._decoded(request), self._config.inputs)
        outputs = await self.batcher.run(inputs)
        classes = predicted_classes(outputs, self._config.labels)
        response = json_protocol.encode(request, outputs, classes if self._config.labels else None)
        self._scored(inputs, classes, started)
        return response

    async def _decoded(self, request: Request) -> Tensors:
        if request.media_type.startswith(json_protocol.IMAGE):  # decoding takes as long as a small model
            return await asyncio.to_thread(json_protocol.decode, request, self._config.inputs, self._image_input)
        return json_protocol.decode(request, self._config.inputs, self._image_input)

    async def _infer(self, request: Request) -> Response:
        started = time.perf_counter()
        infer, decoded = open_inference.decode(request, self._config.inputs, self._image_input)
        open_inference.check_outputs_exist(infer, self._config.outputs)
        inputs = check_inputs(decoded, self._config.inputs)
        outputs = await self.batcher.run(inputs)
        response = open_inference.encode(infer, outputs, model=self._model, version=self._version)
        self._scored(inputs, predicted_classes(outputs, self._config.labels), started)
        return response

    def _scored(self, inputs: Tensors, classes: list[str] | None, started: float) -> None:
        samples = len(next(iter(inputs.values())))
        self.statistics.scored(samples, time.perf_counter() - started, classes or ())

    async def _health(self, _request: Request) -> Response:
        document = {"status": "ok", "model": self._model, "version": self._version, "variant": self._config.variant}
        return json_response(document)

    async def _stats(self, _request: Request) -> Response:
        return json_response({**wire.to_plain(self.statistics.summary()), "runs_on": self._session.describe()})

    async def _metrics(self, _request: Request) -> Response:
        return Response(200, self.statistics.prometheus().encode(), TEXT)

    async def _openapi(self, _request: Request) -> Response:
        return json_response(openapi.document(self._config, model=self._model, version=self._version))

    async def _server_metadata(self, _request: Request) -> Response:
        return json_response({"name": "edgewright", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def _live(self, _request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, _request: Request) -> Response:
        return json_response({"ready": True})

    async def _model_ready(self, _request: Request) -> Response:
        return json_response({"name": self._model, "ready": True})

    async def _model_metadata(self, _request: Request) -> Response:
        return json_response(
            {
                "name": self._model,
                "versions": [str(self._version)],
                "platform": f"edgewright_{self._config.backend}",
                "inputs": open_inference.tensor_metadata(self._config.inputs),
                "outputs": open_inference.tensor_metadata(self._config.outputs),
            }
        )


def _check_encoding(headers: dict[str, str]) -> None:
    """Raise `HttpError` for a compressed body (RFC 9110, 15.5.16)."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HttpError(
            415, f"the body must be sent without Content-Encoding, not as {encoding}", (("accept-encoding", "identity"),)
        )


async def _send(response: Response, send: Send, *, last: bool, with_body: bool) -> None:
    headers = [
        *([(b"connection", b"close")] if last else []),
        (b"content-type", response.media_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *((name.encode(), value.encode()) for name, value in response.headers),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if with_body else b""})


def _may_merge(config: VariantConfig) -> bool:
    """Return True if requests can share a run: the batch axis is free, and no sample changes the outputs of another."""
    return config.independent_samples and all(isinstance(spec.shape[0], str) for spec in config.inputs)
