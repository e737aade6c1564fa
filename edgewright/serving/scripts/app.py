"""Score with an entry script, or a model without one, in worker processes: the application and its routes.

/score           run the script (pool.py); POST, or for a script GET with the parameters in the query
/v2/…            the Open Inference Protocol, for a model and for a script that declares arrays or a table
/                "Healthy", for probes
/health/live     200 while the server answers
/health/ready    200 while a worker is ready, else 503
/swagger.json, /openapi.json, /stats, /metrics
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import replace

from edgewright import __version__
from edgewright.contracts import wire
from edgewright.errors import EdgewrightError
from edgewright.serving.http import docs_page
from edgewright.serving.http.application import HttpApp, Route, ServingLimits, get, post
from edgewright.serving.http.keys import KeyFile
from edgewright.serving.http.messages import TEXT, HttpError, Pending, Request, Response, error_response, json_response
from edgewright.serving.scripts import documents
from edgewright.serving.scripts.connection import Answered
from edgewright.serving.scripts.messages import VERSION, Call, TensorInterface
from edgewright.serving.scripts.options import SCRIPT_WORKER, ScriptOptions
from edgewright.serving.scripts.pool import ScriptPool
from edgewright.serving.statistics import ServedModel, Statistics

_REQUEST_ID = re.compile(r"[\w.:/=+-]{1,100}", re.ASCII)
_ID_HEADERS = ("x-request-id", "x-ms-request-id", "x-ms-client-request-id")


class ScriptApp(HttpApp):
    """Serve one entry script, or one model in worker processes."""

    def __init__(
        self,
        options: ScriptOptions,
        *,
        name: str,
        backend: str = "python",
        limits: ServingLimits | None = None,
        keys: KeyFile | None = None,
    ) -> None:
        """Prepare the application; `backend` is a label of its statistics: the framework of the model."""
        variant = options.subject.removeprefix("the ")
        served = ServedModel(model=name, version=VERSION, variant=variant, backend=backend, precision="-")
        super().__init__(Statistics(served), limits=limits, keys=keys)
        options = replace(options, name=name)
        methods = ("POST", "GET") if options.worker_module == SCRIPT_WORKER else ("POST",)
        self.pool = ScriptPool(options)
        self._name, self._subject = name, options.subject
        self._id_base, self._id_count = str(uuid.uuid4())[:-12], 0
        self._routes = {
            **self._protocol_routes(),
            "/score": Route(methods, self._score, is_scoring=True),
            "/": get(self._healthy, public=True),
            "/health/live": get(self._live, public=True),
            "/health/ready": get(self._ready, public=True),
            "/swagger.json": get(self._swagger),
            "/openapi.json": get(self._openapi),
            "/docs": get(docs_page.answer, public=True),
            "/stats": get(self._stats),
            "/metrics": get(self._metrics),
        }

    def _protocol_routes(self) -> dict[str, Route]:
        base = f"/v2/models/{self._name}"
        routes = {
            "/v2": get(self._server_metadata),
            "/v2/health/live": get(self._live, public=True),
            "/v2/health/ready": get(self._ready, public=True),
        }
        for model in (base, f"{base}/versions/{VERSION}"):
            routes[model] = get(self._model_metadata)
            routes[f"{model}/ready"] = get(self._ready)
            routes[f"{model}/infer"] = post(self._infer)
        return routes

    async def start(self) -> None:
        """Start the workers; see `ScriptPool.start`."""
        await self.pool.start()

    async def stop(self) -> None:
        """End the workers."""
        await self.pool.close()

    def _score(self, request: Request) -> Response | Pending:
        return self._called(request, "/score")

    def _infer(self, request: Request) -> Response | Pending:
        self._tensors()
        return self._called(request, f"/v2/models/{self._name}/infer")

    def _tensors(self) -> TensorInterface:
        tensors = self.pool.started.tensors
        if tensors is None:
            text = "the script must declare arrays or a table with input_schema for the Open Inference Protocol: use /score"
            raise HttpError(400, text)
        return tensors

    def _called(self, request: Request, path: str) -> Response | Pending:
        started_s = time.perf_counter()
        call = Call(
            request_id=_given_id(request.headers) or self._next_id(),
            method=request.method,
            path=path,
            query=request.query_string.decode("latin-1"),
            headers=request.headers if self.pool.started.reads_headers else {},
        )
        pending = Pending()

        def receive(outcome: Answered | EdgewrightError) -> None:
            pending.deliver(self._response(outcome, call.request_id, time.perf_counter() - started_s))

        try:
            self.pool.submit(call, request.body, receive)
        except EdgewrightError as error:
            return self._response(error, call.request_id, 0.0)
        return pending

    def _response(self, outcome: Answered | EdgewrightError, request_id: str, seconds: float) -> Response:
        """Return the response to a call, and count it; `seconds` is the time from the end of the request."""
        identified = ("x-request-id", request_id)
        if isinstance(outcome, EdgewrightError):
            self.count_failure(outcome)
            response = error_response(outcome)
            return Response(response.status, response.body, headers=(*response.headers, identified))
        answer = outcome.answer
        self._count_answer(answer.status, seconds, has_failed=answer.has_failed)
        run_ms = outcome.run_s * 1000
        headers = (
            identified,
            ("x-ms-run-fn-exec-ms", f"{run_ms:.3f}"),
            ("x-ms-run-function-failed", "True" if answer.has_failed else "False"),
            ("server-timing", f"queue;dur={outcome.waited_s * 1000:.2f}, run;dur={run_ms:.2f}"),
            *answer.headers,
        )
        return Response(answer.status, outcome.body, answer.media_type, headers)

    def _next_id(self) -> str:
        """Return an id in the form of a UUID; one random number per process and a count cost less than a random number each."""
        self._id_count += 1
        return f"{self._id_base}{self._id_count:012x}"

    def _count_answer(self, status: int, seconds: float, *, has_failed: bool) -> None:
        if has_failed or status >= 500:
            self.statistics.failed()
        elif status >= 400:
            self.statistics.rejected()
        else:
            self.statistics.scored(1, seconds, ())

    async def _server_metadata(self, _request: Request) -> Response:
        return json_response({"name": "edgewright", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def _model_metadata(self, _request: Request) -> Response:
        tensors = self._tensors()
        described = {"platform": tensors.platform, "inputs": tensors.inputs, "outputs": tensors.outputs}
        return json_response({"name": self._name, "versions": [str(VERSION)], **described})

    async def _healthy(self, _request: Request) -> Response:
        return Response(200, b"Healthy", "text/plain; charset=utf-8")

    async def _live(self, _request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, _request: Request) -> Response:
        if self.pool.ready_count == 0:
            text = f"no worker of {self._subject} is ready: wait until one has started"
            raise HttpError(503, text, (("retry-after", "1"),))
        return json_response({"ready": True, "workers": self.pool.ready_count})

    async def _swagger(self, _request: Request) -> Response:
        return json_response(documents.swagger(self._name, self.pool.started))

    async def _openapi(self, _request: Request) -> Response:
        return json_response(documents.openapi(self._name, self.pool.started))

    async def _stats(self, _request: Request) -> Response:
        return json_response({**wire.to_plain(self.statistics.summary()), "workers": self.pool.ready_count})

    async def _metrics(self, _request: Request) -> Response:
        return Response(200, self.statistics.prometheus().encode(), TEXT)


def _given_id(headers: dict[str, str]) -> str | None:
    """Return the id that the client sent, or None; an id that a log could not hold is refused.

    Raises:
        HttpError: the id is longer than 100 characters or has others than letters, digits and `. : / = + - _`.
    """
    for name in _ID_HEADERS:
        given = headers.get(name)
        if not given:
            continue
        if not _REQUEST_ID.fullmatch(given):
            text = "x-request-id must have 1 to 100 letters, digits or . : / = + - _, but it has others or more"
            raise HttpError(400, text)
        return given
    return None
