"""Short-lived worker processes of the agent: one request in, one result out (edgewright/worker_process.py).

A worker that crashes, hangs or exhausts its memory does not affect the agent, which reads how the process ended. The request
comes over standard input, which stays open afterwards: a child of the agent exits when the kernel closes it, because then the
agent is gone.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from edge_agent.storage.store import SlotRecord
from edgewright.contracts import wire
from edgewright.contracts.messages import DesiredState, FailureCause
from edgewright.errors import (
    BadInputError,
    ConflictError,
    DeniedError,
    EdgewrightError,
    MessageError,
    ModelError,
    PackageError,
    SamplesError,
    SignatureError,
    StorageFullError,
    UnreachableError,
)
from edgewright.worker_process import WorkerEndedError, describe_end, exit_with_parent, read_answer, serve
from hardware_profiles.memory import free_memory_bytes, resident_bytes

_log = logging.getLogger(__name__)

MEMORY_POLL_S = 0.05

_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""Signals that a program causes itself; the kernel ends one that uses too much memory by SIGKILL."""

Request = TypeVar("Request")


class Failure(enum.StrEnum):
    """Kinds of worker failure; each has its own reaction of the agent."""

    REFUSED = "refused"  # the input is invalid: do not retry
    OFFLINE = "offline"  # no response: wait, without counting an attempt
    FULL = "full"  # no disk space: wait, without counting an attempt
    FAILED = "failed"  # retry a few times
    CRASHED = "crashed"  # the process ended without a result
    OVER_MEMORY = "over_memory"  # ended because it used more memory than its share
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResult:
    """Result of a request; `reason` is human-readable, also on success."""

    failure: Failure | None = None
    reason: str = ""
    cause: FailureCause | None = None
    """Cause of the failure; None on success."""
    record: SlotRecord | None = None
    desired: DesiredState | None = None
    memory_bytes: int = 0
    """Largest memory of the process, as far as it was watched: with a limit, every 50 ms."""


async def run_worker(module: str, request: object, *, timeout_s: float | None, memory_share: float | None = None) -> WorkerResult:
    """Run `python -m module` on a request; cancelling the caller kills the process.

    With `memory_share`, the process is killed when it uses more than this share of the memory that was free before it.
    """
    limit_bytes = None if memory_share is None else int(memory_share * free_memory_bytes())
    try:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except OSError as error:  # out of memory or processes at the moment
        return WorkerResult(failure=Failure.FAILED, reason=f"could not start: {error}", cause=FailureCause.DEVICE)
    assert process.stdin is not None
    try:
        with suppress(ConnectionError):  # the process ended before it read its request; its end gives the reason
            process.stdin.write(wire.encode(request) + b"\n")
            await process.stdin.drain()
        async with asyncio.timeout(timeout_s):
            return await _result_within(limit_bytes, process)
    except TimeoutError:
        reason = f"did not finish within {timeout_s:g} s"
        return WorkerResult(failure=Failure.TIMED_OUT, reason=reason, cause=FailureCause.DEVICE)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        process.stdin.close()


async def _result_within(limit_bytes: int | None, process: Process) -> WorkerResult:
    """Return the result of a process, or kill it when it uses more than `limit_bytes` of memory."""
    result = asyncio.create_task(_result_of(process))
    peak_bytes = 0
    try:
        while not (await asyncio.wait({result}, timeout=None if limit_bytes is None else MEMORY_POLL_S))[0]:
            peak_bytes = max(peak_bytes, resident_bytes(process.pid))
            if limit_bytes is not None and peak_bytes > limit_bytes:
                reason = f"needs more memory than the {limit_bytes / 1e6:.0f} MB that it may use of what is free"
                return WorkerResult(
                    failure=Failure.OVER_MEMORY, reason=reason, cause=FailureCause.DEVICE, memory_bytes=peak_bytes
                )
        return replace(result.result(), memory_bytes=peak_bytes)
    finally:
        result.cancel()


async def _result_of(process: Process) -> WorkerResult:
    assert process.stdout is not None
    assert process.stderr is not None
    stdout, stderr = await asyncio.gather(process.stdout.read(), process.stderr.read())
    code = await process.wait()
    text = stderr.decode("utf-8", "replace")
    try:
        if not stdout:
            raise WorkerEndedError(describe_end(code, text))
        return wire.decode(read_answer(stdout), WorkerResult, what="the result of the worker")
    except WorkerEndedError as error:
        _log.debug("worker ended code=%d stderr=%r", code, text[-2000:])
        return WorkerResult(failure=Failure.CRASHED, reason=str(error), cause=cause_of_end(code))
    except EdgewrightError as error:
        return WorkerResult(failure=_failure_of(error), reason=str(error), cause=cause_of(error))


def cause_of(error: EdgewrightError) -> FailureCause:
    """Return the class of a failure; only errors about the bytes and the content of a package are evidence against it."""
    if isinstance(error, SignatureError | DeniedError):
        return FailureCause.TRUST
    if isinstance(error, UnreachableError):
        return FailureCause.NETWORK
    if isinstance(error, ConflictError):
        return FailureCause.CALLER
    about_package = isinstance(error, PackageError | ModelError | SamplesError | MessageError)
    return FailureCause.PACKAGE if about_package else FailureCause.DEVICE


def cause_of_end(exit_code: int) -> FailureCause:
    """Return the class of an unexpected end: a crash of the model's own code, or a process that was killed from outside."""
    return FailureCause.PACKAGE if -exit_code in _CRASHES else FailureCause.DEVICE


def serve_request(kind: type[Request], work: Callable[[Request], SlotRecord | DesiredState | str]) -> None:
    """Run the worker side: read the request, work, write the result; a `str` becomes its reason."""

    def handle(raw: bytes) -> bytes:
        exit_with_parent(gracefully=False)
        return wire.encode(_result_with(work(wire.decode(raw, kind, what="the request"))))

    serve(handle)


def _result_with(outcome: SlotRecord | DesiredState | str) -> WorkerResult:
    if isinstance(outcome, str):
        return WorkerResult(reason=outcome)
    return WorkerResult(desired=outcome) if isinstance(outcome, DesiredState) else WorkerResult(record=outcome)


def _failure_of(error: EdgewrightError) -> Failure:
    if isinstance(error, UnreachableError):
        return Failure.OFFLINE
    if isinstance(error, StorageFullError):
        return Failure.FULL
    return Failure.REFUSED if isinstance(error, BadInputError) else Failure.FAILED
