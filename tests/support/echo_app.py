"""A scoring application without a model, which answers with what it received: for tests of the HTTP server."""

from __future__ import annotations

import asyncio

from edgewright.serving.http.application import HttpApp, Route, ServingLimits
from edgewright.serving.http.messages import Pending, Request, Response
from edgewright.serving.statistics import ServedModel, Statistics

LARGE_BYTES = 12 << 20
"""More than the buffers of a loopback connection hold."""


class EchoApp(HttpApp):
    """`/` answers directly, `/later` in the next iteration of the event loop, `/task` from a coroutine."""

    def __init__(self, limits: ServingLimits | None = None) -> None:
        served = ServedModel(model="echo", version=1, variant="-", backend="-", precision="-")
        super().__init__(Statistics(served), limits=limits)
        self.requests: list[Request] = []
        methods = ("GET", "HEAD", "POST", "PUT")
        self._routes = {
            "/": Route(methods, self._echo),
            "/later": Route(methods, self._later),
            "/task": Route(methods, self._task),
            "/large": Route(methods, lambda request: Response(200, b"x" * LARGE_BYTES)),
            "/headers": Route(methods, self._with_headers),
            "/empty": Route(methods, lambda request: Response(204, b"")),
        }

    @property
    def held_bytes(self) -> int:
        """Bytes of requests that the application counts as held."""
        return self._held_bytes

    def _echo(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(200, request.body, "application/octet-stream", (("x-method", request.method),))

    def _later(self, request: Request) -> Pending:
        pending = Pending()
        asyncio.get_running_loop().call_soon(pending.deliver, self._echo(request))
        return pending

    async def _task(self, request: Request) -> Response:
        await asyncio.sleep(0)
        return self._echo(request)

    def _with_headers(self, request: Request) -> Response:
        return Response(200, b"", headers=(("x-sent", request.body.decode("latin-1")),))
