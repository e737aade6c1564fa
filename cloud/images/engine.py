"""Run the queued builds, a few at once, each in a worker process; what a worker made becomes visible in one transaction.

Builds that need the same layer make it once (`build/layers.py`). A build that ran when the cloud ended is queued again at its
next start. The log of a build is a file that clients follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import to_thread
from sqlalchemy import Connection

from cloud.context import Cloud
from cloud.db.database import Counter
from cloud.images import requests, store
from cloud.images.build.order import BuildOrder, BuiltImage
from edgewright.contracts import wire
from edgewright.contracts.environments.images import ImageRecord
from edgewright.errors import EdgewrightError
from edgewright.worker_process import WorkerEndedError, describe_end, read_answer

T = TypeVar("T")

_LOG = logging.getLogger("edgewright.cloud")
_WORKER = "cloud.images.build.worker"
_WAIT_S = 3600.0
_MAX_ANSWER_BYTES = 16 << 20
BUILDS_AT_ONCE = max(2, min(4, os.cpu_count() or 1))
"""Number of builds that run at once: a build waits for the network as long as it computes."""


async def build_images(cloud: Cloud) -> None:
    """Build queued images until cancelled."""
    await to_thread.run_sync(partial(shutil.rmtree, cloud.state.path / "images" / "work", ignore_errors=True))
    await _store(cloud, store.requeue)
    async with asyncio.TaskGroup() as builders:
        for _ in range(BUILDS_AT_ONCE):
            builders.create_task(_build_queued(cloud))


async def _build_queued(cloud: Cloud) -> None:
    while True:
        seen = cloud.changes.number(Counter.CHANGES)
        record = await _store(cloud, store.claim)
        if record is None:
            await cloud.changes.wait(Counter.CHANGES, seen, _WAIT_S)
        else:
            await _build(cloud, record)


def log_path(cloud: Cloud, name: str, version: int) -> Path:
    """Return the log of a build, written or not."""
    return cloud.state.path / "images" / "logs" / f"{name}-{version}.log"


async def _build(cloud: Cloud, record: ImageRecord) -> None:
    work = cloud.state.path / "images" / "work" / f"{record.name}-{record.version}"
    try:
        await to_thread.run_sync(_prepare, work, log_path(cloud, record.name, record.version))
        order = await to_thread.run_sync(_order, cloud, record, work)
        built = await _run_worker(order, log_path(cloud, record.name, record.version))
        await _store(cloud, lambda connection, now: store.finish(connection, cloud.blobs, record, built, now))
        _LOG.info("built image=%s new_bytes=%d", record, built.new_bytes)
    except (EdgewrightError, OSError) as error:
        reason = str(error)
        _LOG.info("build failed image=%s error=%s", record, reason)
        await _store(cloud, lambda connection, now: store.fail(connection, record, reason, now))
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def _run_worker(order: BuildOrder, log: Path) -> BuiltImage:
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", _WORKER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": path},
            limit=_MAX_ANSWER_BYTES,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(wire.encode(order) + b"\n")
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        line = await process.stdout.readline()
        exit_code = await process.wait() if not line else 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if not line:
        raise WorkerEndedError(f"the build {describe_end(exit_code, log.read_text('utf-8', 'replace')[-2000:])}")
    return wire.decode(read_answer(line), BuiltImage, what="the answer of the build worker")


def _prepare(work: Path, log: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")


def _order(cloud: Cloud, record: ImageRecord, work: Path) -> BuildOrder:
    folders = {
        "blobs": str(cloud.blobs.path_of("sha256:" + "0" * 64).parent),
        "cache": str(cloud.state.path / "images" / "cache"),
        "work": str(work),
    }
    with cloud.database.reading() as connection:
        return requests.order_of(connection, cloud.blobs, record, folders)


async def _store(cloud: Cloud, change: Callable[[Connection, datetime], T]) -> T:
    def run() -> T:
        with cloud.database.transaction() as connection:
            return change(connection, datetime.now(UTC))

    return await to_thread.run_sync(run)
