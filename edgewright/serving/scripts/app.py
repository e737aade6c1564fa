"""Score with an entry script: the application and its routes.

/score           run the script (pool.py); POST, or GET with the parameters in the query
/                "Healthy", for probes
/health/live     200 while the server answers
/health/ready    200 while a worker is ready, else 503
/swagger.json, /openapi.json, /stats, /metrics
"""

from __future__ import annotations

import re
import time
import uuid

from edgewright.contracts import wire
from edgewright.errors import EdgewrightError
from edgewright.serving.http.application import HttpApp, Route, ServingLimits, get
from edgewright.serving.http.keys import KeyFile
from edgewright.serving.http.messages import TEXT, HttpError, Request, Response, error_response, json_response
from edgewright.serving.scripts import documents
from edgewright.serving.scripts.messages import Call
from edgewright.serving.scripts.pool import ScriptOptions, ScriptPool
from edgewright.serving.statistics import ServedModel, Statistics

_REQUEST_ID = re.compile(r"[\w.:/=+-]{1,100}", re.ASCII)
_ID_HEADERS = ("x-request-id", "x-ms-request-id", "x-ms-client-request-id")


class ScriptApp(HttpApp):
    """Serve one entry script."""

    def __init__(
        self, options: ScriptOptions, *, name: str, limits: ServingLimits | None = None, keys: KeyFile | None = None
    ) -> None:
        served = ServedModel(model=name, version=0, variant="script", backend="python", precision="-")
        super().__init__(Statistics(served), limits=limits, keys=keys)
        self.pool = ScriptPool(options)
        self._name = name
        self._routes = {
            "/score": Route(("POST", "GET"), self._score, is_scoring=True),
            "/": get(self._healthy, public=True),
            "/health/live": get(self._live, public=True),
            "/health/ready": get(self._ready, public=True),
            "/swagger.json": get(self._swagger),
            "/openapi.json": get(self._openapi),
            "/stats": get(self._stats),
            "/metrics": get(self._metrics),
        }

    async def start(self) -> None:
        """Start the workers; see `ScriptPool.start`."""
        await self.pool.start()

    async def stop(self) -> None:
        """End the workers."""
        await self.pool.close()

    async def _score(self, request: Request) -> Response:
        started = time.perf_counter()
        call = Call(
            number=0,
            request_id=_request_id(request.headers),
            method=request.method,
            query=request.query_string.decode("latin-1"),
            headers=request.headers if self.pool.started.uses_raw_requests else {},
        )
        identified = ("x-request-id", call.request_id)
        try:
            answer, body, waited_s = await self.pool.call(call, request.body)
        except EdgewrightError as error:
            self.count_failure(error)
            response = error_response(error)
            return Response(response.status, response.body, headers=(*response.headers, identified))
        self._count_answer(answer.status, time.perf_counter() - started, has_failed=answer.has_failed)
        timing = f"queue;dur={waited_s * 1000:.2f}, run;dur={answer.run_ms:.2f}"
        headers = (
            identified,
            ("x-ms-run-fn-exec-ms", f"{answer.run_ms:.3f}"),
            ("x-ms-run-function-failed", str(answer.has_failed)),
            ("server-timing", timing),
            *answer.headers,
        )
        return Response(answer.status, body, answer.media_type, headers)

    def _count_answer(self, status: int, seconds: float, *, has_failed: bool) -> None:
        if has_failed or status >= 500:
            self.statistics.failed()
        elif status >= 400:
            self.statistics.rejected()
        else:
            self.statistics.scored(1, seconds, ())

    async def _healthy(self, _request: Request) -> Response:
        return Response(200, b"Healthy", "text/plain; charset=utf-8")

    async def _live(self, _request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, _request: Request) -> Response:
        if self.pool.ready_count == 0:
            raise HttpError(503, "no worker of the script is ready: wait until one has started", (("retry-after", "1"),))
        return json_response({"ready": True, "workers": self.pool.ready_count})

    async def _swagger(self, _request: Request) -> Response:
        return json_response(documents.swagger(self._name, self.pool.started))

    async def _openapi(self, _request: Request) -> Response:
        return json_response(documents.openapi(self._name, self.pool.started))

    async def _stats(self, _request: Request) -> Response:
        return json_response({**wire.to_plain(self.statistics.summary()), "workers": self.pool.ready_count})

    async def _metrics(self, _request: Request) -> Response:
        return Response(200, self.statistics.prometheus().encode(), TEXT)


def _request_id(headers: dict[str, str]) -> str:
    """Return the id that the client sent, or a new one; an id that a log could not hold is refused.

    Raises:
        HttpError: the id is longer than 100 characters or has others than letters, digits and `. : / = + - _`.
    """
    given = next((headers[name] for name in _ID_HEADERS if headers.get(name)), None)
    if given is None:
        return str(uuid.uuid4())
    if not _REQUEST_ID.fullmatch(given):
        raise HttpError(400, "x-request-id must have 1 to 100 letters, digits or . : / = + - _, but it has others or more")
    return given
