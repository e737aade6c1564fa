"""Short-lived worker processes: one order in, one answer out, as JSON lines.

A worker that crashes, hangs or eats the memory takes nothing with it; the agent sees how it ended. The order comes over
standard input, which then stays open as the lifeline (`lifeline.py`).
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import signal
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
class WorkerAnswer:
    """What came of an order; `reason` is for people, also where it went well."""

    failure: Failure | None = None
    reason: str = ""
    record: SlotRecord | None = None
    desired: DesiredState | None = None


async def run_worker(module: str, order: object, *, timeout_s: float | None) -> WorkerAnswer:
    """Run `python -m module` on an order; ended with the caller when that is cancelled."""
    try:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except OSError as failed:  # no memory or no process to be had, now
        return WorkerAnswer(failure=Failure.FAILED, reason=f"could not start: {failed}")
    assert process.stdin is not None
    try:
        with suppress(ConnectionError):  # it ended before it read its order; how it ended says why
            process.stdin.write(wire.encode(order) + b"\n")
            await process.stdin.drain()
        async with asyncio.timeout(timeout_s):
            return await _answer_of(process)
    except TimeoutError:
        return WorkerAnswer(failure=Failure.TIMED_OUT, reason=f"did not finish within {timeout_s:g} s")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        process.stdin.close()


async def _answer_of(process: Process) -> WorkerAnswer:
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
    code = await process.wait()
    lines = out.splitlines()
    if code == 0 and lines:
        return wire.decode(lines[-1], WorkerAnswer, what="the worker's answer")
    said = err.decode("utf-8", "replace").strip()
    _log.debug("worker_ended code=%d stderr=%r", code, said[-2000:])
    return WorkerAnswer(failure=Failure.CRASHED, reason=how_it_ended(code, said))


def how_it_ended(code: int, said: str) -> str:
    """Say in words how a process ended, with the last line that it wrote."""
    last = said.splitlines()[-1][:300] if said else ""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{how}: {last}" if last else how


def serve_order(kind: type[Order], work: Callable[[Order], SlotRecord | DesiredState | str]) -> None:
    """Be a worker: read the order, work, answer. The answer of a `str` is its reason."""
    raw = _first_line()
    end_with_the_agent(gently=False)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like the answer
    try:
        result = work(wire.decode(raw, kind, what="the order"))
        answer = _answer_with(result)
    except EdgewrightError as error:
        answer = WorkerAnswer(failure=_failure_of(error), reason=str(error))
    os.write(answers, wire.encode(answer) + b"\n")


def _answer_with(result: SlotRecord | DesiredState | str) -> WorkerAnswer:
    if isinstance(result, str):
        return WorkerAnswer(reason=result)
    return WorkerAnswer(desired=result) if isinstance(result, DesiredState) else WorkerAnswer(record=result)


def _first_line() -> bytes:
    """Read one line and not a byte more, because the rest of the stream is the lifeline."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return bytes(line)


def _failure_of(error: EdgewrightError) -> Failure:
    if isinstance(error, UnreachableError):
        return Failure.OFFLINE
    if isinstance(error, StorageFullError):
        return Failure.FULL
    return Failure.REFUSED if isinstance(error, BadInputError) else Failure.FAILED
