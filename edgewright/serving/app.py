"""The scoring server: a bare ASGI application around one loaded variant.

    read the body     never more than is allowed
    decode            by protocol: plain JSON or .npy (plain.py), Open Inference Protocol (open_inference.py)
    prepare           pixels and pictures, as the variant's config says (images.py)
    check             against the variant's inputs; a mismatch is a 400 that tells both sides
    score             in a worker thread, together with what else has arrived (batching.py), so that health answers meanwhile
    encode, count     (statistics.py)

No framework: on a small model it would cost more than the model (benchmarks/serving.py).
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
from edgewright.serving import open_inference, openapi, plain
from edgewright.serving.batching import Batcher
from edgewright.serving.exchange import TEXT, Answer, RefusedError, Request, error_answer, json_answer
from edgewright.serving.images import PictureInput
from edgewright.serving.statistics import Identity, Statistics, predicted_classes

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Request], Awaitable[Answer]]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """What one client, and all of them together, may make the server hold."""

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
    ) -> None:
        identity = Identity(
            model=model,
            version=version,
            variant=config.variant,
            backend=session.describe()["backend"],
            precision=config.precision.value,
        )
        self.statistics = Statistics(identity)
        self._session = session
        self.batcher = Batcher(session, merging=all(isinstance(spec.shape[0], str) for spec in config.inputs))
        self._config = config
        self._pictures = PictureInput.of(config)
        self._model, self._version = model, version
        self._limits = limits or ServingLimits()
        self.draining = False
        """Whether this process is about to end: every answer then asks its client for a new connection."""
        self._held_bytes = 0
        self._routes = self._make_routes()
        self._scoring = {path for path, (method, _) in self._routes.items() if method == "POST"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        body: list[bytes] = []
        try:
            await _send(await self._answer(scope, receive, body), send, last=self.draining)
        finally:
            self._held_bytes -= sum(map(len, body))

    def close(self) -> None:
        """End the worker thread; call it when no request is on its way any more."""
        self.batcher.close()

    async def _answer(self, scope: Scope, receive: Receive, body: list[bytes]) -> Answer:
        scoring = scope["path"] in self._scoring
        try:
            handler = self._find(scope["method"], scope["path"])
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            await self._read_body(headers, receive, body)
            return await handler(Request(headers, b"".join(body)))
        except EdgewrightError as error:
            if scoring:
                self._count(error)
            return error_answer(error)
        except Exception:  # a bug of ours: counted here; the server answers 500 and logs the traceback
            if scoring:
                self.statistics.failed()
            raise

    def _count(self, error: EdgewrightError) -> None:
        if isinstance(error, BadInputError):
            self.statistics.rejected()
        else:
            self.statistics.failed()

    async def _read_body(self, headers: dict[str, str], receive: Receive, body: list[bytes]) -> None:
        """Collect the body into `body`, or refuse as soon as it is known to be too large."""
        announced = headers.get("content-length", "0")
        received = 0
        self._check_size(int(announced) if announced.isdecimal() else 0)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "the connection ended before the whole body had arrived")
            chunk = message.get("body", b"")
            received += len(chunk)
            self._check_size(received)
            if self._held_bytes + len(chunk) > self._limits.max_held_bytes:
                raise RefusedError(503, "too much is waiting to be scored: try again in a second", (("retry-after", "1"),))
            body.append(chunk)
            self._held_bytes += len(chunk)
            if not message.get("more_body"):
                return

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.max_body_bytes:
            raise RefusedError(413, f"a body must have at most {self._limits.max_body_bytes} bytes, not {size_bytes}")

    def _find(self, method: str, path: str) -> Handler:
        found = self._routes.get(path)
        if found is None:
            raise NotFoundError(self._unknown(path))
        allowed, handler = found
        if method != allowed:
            raise RefusedError(405, f"{path} answers {allowed}, not {method}", (("allow", allowed),))
        return handler

    def _unknown(self, path: str) -> str:
        if path.startswith("/v2/models/"):
            return f"{path} is not served here: the one model is {self._model}, version {self._version}"
        return f"{path} is not served here; there are {', '.join(self._routes)}"

    def _make_routes(self) -> dict[str, tuple[str, Handler]]:
        here = f"/v2/models/{self._model}"
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
        for model in (here, f"{here}/versions/{self._version}"):
            routes[model] = ("GET", self._model_metadata)
            routes[f"{model}/ready"] = ("GET", self._model_ready)
            routes[f"{model}/infer"] = ("POST", self._infer)
        return routes

    async def _score(self, request: Request) -> Answer:
        started = time.perf_counter()
        inputs = check_inputs(await self._decoded(request), self._config.inputs)
        outputs = await self.batcher.run(inputs)
        classes = predicted_classes(outputs, self._config.labels)
        answer = plain.encode(request, outputs, classes if self._config.labels else None)
        self._scored(inputs, classes, started)
        return answer

    async def _decoded(self, request: Request) -> Tensors:
        if request.media_type.startswith(plain.PICTURE):  # decoding takes as long as a small model: others go on meanwhile
            return await asyncio.to_thread(plain.decode, request, self._config.inputs, self._pictures)
        return plain.decode(request, self._config.inputs, self._pictures)

    async def _infer(self, request: Request) -> Answer:
        started = time.perf_counter()
        infer, decoded = open_inference.decode(request, self._config.inputs, self._pictures)
        open_inference.check_outputs_exist(infer, self._config.outputs)
        inputs = check_inputs(decoded, self._config.inputs)
        outputs = await self.batcher.run(inputs)
        answer = open_inference.encode(infer, outputs, model=self._model, version=self._version)
        self._scored(inputs, predicted_classes(outputs, self._config.labels), started)
        return answer

    def _scored(self, inputs: Tensors, classes: list[str] | None, started: float) -> None:
        samples = len(next(iter(inputs.values())))
        self.statistics.scored(samples, time.perf_counter() - started, classes or ())

    async def _health(self, _request: Request) -> Answer:
        facts = {"status": "ok", "model": self._model, "version": self._version, "variant": self._config.variant}
        return json_answer(facts)

    async def _stats(self, _request: Request) -> Answer:
        return json_answer({**wire.to_plain(self.statistics.summary()), "runs_on": self._session.describe()})

    async def _metrics(self, _request: Request) -> Answer:
        return Answer(200, self.statistics.prometheus().encode(), TEXT)

    async def _openapi(self, _request: Request) -> Answer:
        return json_answer(openapi.document(self._config, model=self._model, version=self._version))

    async def _server_metadata(self, _request: Request) -> Answer:
        return json_answer({"name": "edgewright", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def _live(self, _request: Request) -> Answer:
        return json_answer({"live": True})

    async def _ready(self, _request: Request) -> Answer:
        return json_answer({"ready": True})

    async def _model_ready(self, _request: Request) -> Answer:
        return json_answer({"name": self._model, "ready": True})

    async def _model_metadata(self, _request: Request) -> Answer:
        return json_answer(
            {
                "name": self._model,
                "versions": [str(self._version)],
                "platform": f"edgewright_{self._config.backend}",
                "inputs": open_inference.tensor_metadata(self._config.inputs),
                "outputs": open_inference.tensor_metadata(self._config.outputs),
            }
        )


async def _send(answer: Answer, send: Send, *, last: bool) -> None:
    headers = [
        *([(b"connection", b"close")] if last else []),
        (b"content-type", answer.media_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
        *((name.encode(), value.encode()) for name, value in answer.headers),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
