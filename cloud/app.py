"""One running cloud put together: endpoints in front, background work behind.

Starting: follow the counters, start the broker, connect to it, begin the background work. Ending is the same, backwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloud.context import Cloud
from cloud.db.database import Counter
from cloud.http.endpoint import Endpoint, answer
from cloud.http.routes import ENDPOINTS
from cloud.messaging.broker import Broker
from cloud.rollouts.engine import drive_rollouts
from edgewright.contracts import wire
from edgewright.errors import UnreachableError

_LOG = logging.getLogger("edgewright.cloud")
_FOLLOW_S = 3600.0

Background = Callable[[Cloud], Awaitable[None]]


async def follow_other_processes(cloud: Cloud) -> None:
    """See what other processes on the same database change."""
    await cloud.changes.follow_other_processes()


async def publish_desired(cloud: Cloud) -> None:
    """Send desired state over MQTT as it changes."""
    if cloud.mqtt is None:
        return
    seen = cloud.changes.number(Counter.DESIRED)
    while True:
        number = await cloud.changes.wait(Counter.DESIRED, seen, _FOLLOW_S)
        await to_thread.run_sync(cloud.mqtt.publish_desired, seen)
        seen = number


BACKGROUND: tuple[Background, ...] = (follow_other_processes, publish_desired, drive_rollouts)


@asynccontextmanager
async def working(cloud: Cloud, broker: Broker | None) -> AsyncIterator[None]:
    """Do everything that a cloud does besides answering requests, while the block runs."""
    async with AsyncExitStack() as ending:
        ending.callback(cloud.database.close)
        await cloud.changes.start()
        if broker is not None:
            ending.push_async_callback(broker.stop)
            await broker.start()
        if cloud.mqtt is not None:
            ending.push_async_callback(to_thread.run_sync, cloud.mqtt.stop)
            cloud.mqtt.start()
        work = [_keep_running(cloud, each) for each in BACKGROUND] + ([broker.supervise()] if broker else [])
        ending.push_async_callback(_end, [asyncio.create_task(each) for each in work])
        yield


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def create(cloud: Cloud) -> Starlette:
    """Return the ASGI application of a cloud."""
    routes = [Route(each.path, _asgi(each, cloud), methods=[each.method]) for each in ENDPOINTS]
    return Starlette(routes=routes, exception_handlers={HTTPException: _unrouted, Exception: _our_mistake})


def _asgi(endpoint: Endpoint, cloud: Cloud) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await answer(endpoint, cloud, request)

    return handle


async def _keep_running(cloud: Cloud, work: Background) -> None:
    """Run background work; when it fails it is our mistake, which is logged and does not end the service.

    A database that is away is nobody's mistake: it is said once a minute, and the work goes on when it is back.
    """
    name = getattr(work, "__name__", str(work))
    quiet_until = 0.0
    while True:
        try:
            await work(cloud)
            return
        except UnreachableError as error:
            if time.monotonic() > quiet_until:
                _LOG.warning("background work waits name=%s error=%s", name, error)
                quiet_until = time.monotonic() + 60
            await asyncio.sleep(1)
        except Exception:  # noqa: BLE001  whatever it is, the service goes on and the log says it
            _LOG.exception("background work failed name=%s restart_in_s=1", name)
            await asyncio.sleep(1)


async def _unrouted(request: Request, error: Exception) -> Response:
    """Answer for a path or method that nobody serves."""
    assert isinstance(error, HTTPException), "starlette calls this for no other"
    code = "UNSUPPORTED" if error.status_code == 405 else "NAME_UNKNOWN"
    text = f"{request.method} {request.url.path[:200]}: {error.detail.lower()}; see /openapi.json"
    plain = {"error": text, "errors": [{"code": code, "message": text}]}
    return Response(wire.encode(plain), error.status_code, error.headers, "application/json")


async def _our_mistake(_request: Request, _error: Exception) -> Response:
    """Answer for a bug; its traceback goes to the log, not to the caller."""
    text = "the cloud made a mistake; its log has the details"
    return Response(wire.encode({"error": text}), 500, media_type="application/json")
