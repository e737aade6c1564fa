"""Short-lived worker processes of the agent: one order in, one result out (edgewright/worker_process.py).

A worker that crashes, hangs or eats the memory takes nothing with it; the agent sees how it ended. The order comes over
standard input, which then stays open as the lifeline (`lifeline.py`).
"""

from __future__ import annotations

import asyncio
import enum
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from edge_agent.storage.store import SlotRecord
from edge_agent.workers.lifeline import end_with_the_agent
from edgewright.contracts import wire
from edgewright.contracts.messages import DesiredState
from edgewright.errors import BadInputError, EdgewrightError, StorageFullError, UnreachableError
from edgewright.worker_process import WorkerEndedError, describe_end, read_answer, serve

_log = logging.getLogger(__name__)

Order = TypeVar("Order")


class Failure(enum.StrEnum):
    """How a worker failed, by what the agent does about it."""

    REFUSED = "refused"  # the package is not good: never again
    OFFLINE = "offline"  # nobody answered: wait, no attempt spent
    FULL = "full"  # no room: wait, no attempt spent
    FAILED = "failed"  # try again a few times
    CRASHED = "crashed"  # the process ended without an answer
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResult:
    """What came of an order; `reason` is for people, also where it went well."""

    failure: Failure | None = None
    reason: str = ""
    record: SlotRecord | None = None
    desired: DesiredState | None = None


async def run_worker(module: str, order: object, *, timeout_s: float | None) -> WorkerResult:
    """Run `python -m module` on an order; ended with the caller when that is cancelled."""
    try:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except OSError as failed:  # no memory or no process to be had, now
        return WorkerResult(failure=Failure.FAILED, reason=f"could not start: {failed}")
    assert process.stdin is not None
    try:
        with suppress(ConnectionError):  # it ended before it read its order; how it ended says why
            process.stdin.write(wire.encode(order) + b"\n")
            await process.stdin.drain()
        async with asyncio.timeout(timeout_s):
            return await _result_of(process)
    except TimeoutError:
        return WorkerResult(failure=Failure.TIMED_OUT, reason=f"did not finish within {timeout_s:g} s")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        process.stdin.close()


async def _result_of(process: Process) -> WorkerResult:
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
    code = await process.wait()
    stderr = err.decode("utf-8", "replace")
    try:
        if not out:
            raise WorkerEndedError(describe_end(code, stderr))
        return wire.decode(read_answer(out), WorkerResult, what="the worker's result")
    except WorkerEndedError as error:
        _log.debug("worker_ended code=%d stderr=%r", code, stderr[-2000:])
        return WorkerResult(failure=Failure.CRASHED, reason=str(error))
    except EdgewrightError as error:
        return WorkerResult(failure=_failure_of(error), reason=str(error))


def serve_order(kind: type[Order], work: Callable[[Order], SlotRecord | DesiredState | str]) -> None:
    """Be a worker: read the order, work, answer. A `str` is the reason of the result."""

    def handle(request: bytes) -> bytes:
        end_with_the_agent(gently=False)
        return wire.encode(_result_with(work(wire.decode(request, kind, what="the order"))))

    serve(handle)


def _result_with(result: SlotRecord | DesiredState | str) -> WorkerResult:
    if isinstance(result, str):
        return WorkerResult(reason=result)
    return WorkerResult(desired=result) if isinstance(result, DesiredState) else WorkerResult(record=result)


def _failure_of(error: EdgewrightError) -> Failure:
    if isinstance(error, UnreachableError):
        return Failure.OFFLINE
    if isinstance(error, StorageFullError):
        return Failure.FULL
    return Failure.REFUSED if isinstance(error, BadInputError) else Failure.FAILED
