"""The ASGI application of a cloud, and its background tasks.

Start: follow the counters, start the broker, connect to it, start the background tasks. Stop: the same in reverse order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from cloud.context import Cloud
from cloud.db.database import Counter
from cloud.endpoints.engine import drive_endpoints
from cloud.http.endpoint import Endpoint, answer
from cloud.http.routes import ENDPOINTS
from cloud.images.engine import build_images
from cloud.messaging.broker import Broker
from cloud.pipelines.engine import drive_jobs, drive_schedules
from cloud.registry.collecting import collect
from cloud.rollouts.engine import drive_rollouts
from edgewright.contracts import wire
from edgewright.contracts.models.maintenance import GRACE_S
from edgewright.errors import EdgewrightError, UnreachableError

_LOG = logging.getLogger("edgewright.cloud")
_WAIT_S = 3600.0
_COLLECT_EVERY_S = 3600.0
_HUB_EVERY_S = 5.0

Background = Callable[[Cloud], Awaitable[None]]


async def follow_other_processes(cloud: Cloud) -> None:
    """Follow changes by other processes on the same database."""
    await cloud.changes.follow_other_processes()


async def publish_desired(cloud: Cloud) -> None:
    """Publish desired states over MQTT as they change."""
    if cloud.mqtt is None:
        return
    seen = cloud.changes.number(Counter.DESIRED)
    while True:
        number = await cloud.changes.wait(Counter.DESIRED, seen, _WAIT_S)
        await to_thread.run_sync(cloud.mqtt.publish_desired, seen)
        seen = number


async def synchronise_iothub(cloud: Cloud) -> None:
    """Write desired states into the twins of an IoT Hub as they change, and read reports every few seconds."""
    if cloud.iothub is None:
        return
    problem = ""
    while True:
        seen = cloud.changes.number(Counter.DESIRED)
        try:
            await to_thread.run_sync(cloud.iothub.synchronise)
            problem = ""
        except EdgewrightError as error:
            if str(error) != problem:
                problem = str(error)
                _LOG.warning("cannot synchronise the twins of the hub error=%s", problem)
            await asyncio.sleep(_HUB_EVERY_S)
            continue
        await cloud.changes.wait(Counter.DESIRED, seen, _HUB_EVERY_S)


async def collect_unreferenced(cloud: Cloud) -> None:
    """Remove blobs of the registry that nothing refers to, every hour."""
    while True:
        await asyncio.sleep(_COLLECT_EVERY_S)
        collected = await to_thread.run_sync(lambda: collect(cloud.blobs, grace_s=GRACE_S, now=datetime.now(UTC)))
        if collected.blobs:
            _LOG.info("removed unreferenced blobs count=%d size_bytes=%d", collected.blobs, collected.size_bytes)


BACKGROUND: tuple[Background, ...] = (
    follow_other_processes,
    publish_desired,
    synchronise_iothub,
    drive_rollouts,
    drive_endpoints,
    drive_jobs,
    drive_schedules,
    build_images,
    collect_unreferenced,
)


@asynccontextmanager
async def running(cloud: Cloud, broker: Broker | None) -> AsyncIterator[None]:
    """Run the broker, the MQTT client and the background tasks while the block runs."""
    async with AsyncExitStack() as stack:
        stack.callback(cloud.database.close)
        await cloud.changes.start()
        if broker is not None:
            stack.push_async_callback(broker.stop)
            await broker.start()
        if cloud.mqtt is not None:
            stack.push_async_callback(to_thread.run_sync, cloud.mqtt.stop)
            cloud.mqtt.start()
        coroutines = [_keep_running(cloud, each) for each in BACKGROUND] + ([broker.supervise()] if broker else [])
        stack.push_async_callback(_cancel, [asyncio.create_task(each) for each in coroutines])
        yield


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def create(cloud: Cloud) -> Starlette:
    """Return the ASGI application of a cloud."""
    routes = [Route(each.path, _asgi(each, cloud), methods=[each.method]) for each in ENDPOINTS]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_route, Exception: _internal_error})


def _asgi(endpoint: Endpoint, cloud: Cloud) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await answer(endpoint, cloud, request)

    return handle


async def _keep_running(cloud: Cloud, task: Background) -> None:
    """Run a background task and restart it after an error, which is logged.

    If the database is unreachable, log it at most once a minute and retry every second.
    """
    name = getattr(task, "__name__", str(task))
    quiet_until = 0.0
    while True:
        try:
            await task(cloud)
            return
        except UnreachableError as error:
            if time.monotonic() > quiet_until:
                _LOG.warning("background task waits for the database name=%s error=%s", name, error)
                quiet_until = time.monotonic() + 60
            await asyncio.sleep(1)
        except Exception:  # noqa: BLE001  an error in one task must not stop the service
            _LOG.exception("background task failed name=%s restart_in_s=1", name)
            await asyncio.sleep(1)


async def _no_route(request: Request, error: Exception) -> Response:
    """Return the response for an unknown path or method."""
    assert isinstance(error, HTTPException), "registered for HTTPException only"
    code = "UNSUPPORTED" if error.status_code == 405 else "NAME_UNKNOWN"
    text = f"{request.method} {request.url.path[:200]}: {error.detail.lower()}; see /openapi.json"
    body = {"error": text, "errors": [{"code": code, "message": text}]}
    headers = {"Allow": ", ".join(_methods_of(request))} if error.status_code == 405 else error.headers
    return Response(wire.encode(body), error.status_code, headers, "application/json")


def _methods_of(request: Request) -> list[str]:
    """Return the methods of every route of the path: each route has one, and Starlette names only those of the first.

    A route without parameters comes before those whose parameters fit as well, as in OpenAPI.
    """
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    literal = [route for route in matching if route.path == request.url.path]
    return sorted({method for route in literal or matching for method in route.methods or ()})


async def _internal_error(_request: Request, _error: Exception) -> Response:
    """Return the response for an unexpected exception; starlette logs its traceback."""
    text = "internal error of the cloud; its log has the details"
    return Response(wire.encode({"error": text}), 500, media_type="application/json")
