"""Images: request a build, list, show, follow its log."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from anyio import to_thread

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.images import requests, store
from cloud.images.engine import log_path
from edgewright.contracts.environments.images import ImageRecord, ImageRequest, LogPiece
from edgewright.errors import NotFoundError

_LOOK_AGAIN_S = 0.1
_MAX_PIECE_BYTES = 256 << 10


def build_image(call: Call) -> ImageRecord:
    """Queue the build of the next version of an image."""
    with call.cloud.database.transaction() as connection:
        return requests.create(connection, call.cloud.blobs, call.body, call.now)


def list_images(call: Call) -> list[ImageRecord]:
    """Return every image."""
    with call.cloud.database.reading() as connection:
        return store.all_images(connection)


def show_image(call: Call) -> list[ImageRecord]:
    """Return every version of an image."""
    with call.cloud.database.reading() as connection:
        return store.versions(connection, call.path("image"))


async def follow_log(call: Call) -> LogPiece:
    """Return what the log of a build has after `after`; wait up to `wait_s` for more while the build runs."""
    after, ends_at_s = call.whole("after", 0), time.monotonic() + call.wait_s()
    while True:
        record = await to_thread.run_sync(_record, call)
        raw = await to_thread.run_sync(_read, log_path(call.cloud, record.name, record.version), after)
        if raw or record.state.is_final or time.monotonic() >= ends_at_s or call.cloud.changes.closed:
            return LogPiece(text=raw.decode("utf-8", "replace"), next=after + len(raw), state=record.state)
        await asyncio.sleep(_LOOK_AGAIN_S)


def _record(call: Call) -> ImageRecord:
    text = call.path("version")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise NotFoundError(f"a version must be given by its number, not {text[:64]!r}; 'edgewright images list' shows them")
    with call.cloud.database.reading() as connection:
        return store.find(connection, call.path("image"), int(text))


def _read(path: Path, after: int) -> bytes:
    """Return whole lines after an offset."""
    try:
        with path.open("rb") as stream:
            stream.seek(after)
            raw = stream.read(_MAX_PIECE_BYTES)
    except FileNotFoundError:
        return b""
    return raw[: raw.rfind(b"\n") + 1]


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/images",
        access=Access.OPERATOR,
        summary="Queue the build of the next version of an image.",
        handler=build_image,
        request_type=ImageRequest,
        response_type=ImageRecord,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/images",
        access=Access.OPERATOR,
        summary="Every version of every image.",
        handler=list_images,
        response_type=list[ImageRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/images/{image}",
        access=Access.OPERATOR,
        summary="Every version of an image, oldest first.",
        handler=show_image,
        response_type=list[ImageRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/images/{image}/versions/{version}/log",
        access=Access.OPERATOR,
        summary="A piece of the log of a build; waits for more while the build runs.",
        handler=follow_log,
        response_type=LogPiece,
        numbers=("after", "wait_s"),
        query={"after": "offset of the piece in bytes", "wait_s": "maximum time to wait for more, at most 60 s"},
    ),
)
