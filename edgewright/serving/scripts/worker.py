"""The worker process of an entry script: `python -m edgewright.serving.scripts.worker FD SETTINGS`.

It imports the script, calls `init`, and answers one call after the other on the socket FD; the calls of an asynchronous `run`
overlap, and a batched `run` gets those that the server sent together. What the script prints or logs goes to standard error, each
line with the time and the id of its request (log_stream.py). The process ends when the server closes the socket.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edgewright.errors import BadInputError, EdgewrightError
from edgewright.serving.scripts import messages
from edgewright.serving.scripts.batches import run_batch
from edgewright.serving.scripts.calls import ScriptCalls
from edgewright.serving.scripts.entry_script import EntryScript, failed_init
from edgewright.serving.scripts.log_stream import LogStream, request_id
from edgewright.serving.scripts.messages import NOT_RUN_S, PLAIN_ANSWER, Call, FrameReader, Started, WorkerSettings

ASYNCHRONOUS_CALLS = 32
"""Calls of an asynchronous `run` that a worker answers at the same time."""


def main(descriptor: int, settings: str, load: Callable[[WorkerSettings], EntryScript]) -> None:
    """Run the worker until the server closes the socket; `load` opens what `settings`, a `WorkerSettings` in JSON, names."""
    os.dup2(2, 1)  # a library's output on standard output belongs to the log as well
    sys.stdout = sys.stderr = LogStream(sys.stderr)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    connection = socket.socket(fileno=descriptor)
    try:
        parsed = messages.read_settings(settings)
        script = load(parsed)
        _call_init(script, Path(parsed.path))
    except EdgewrightError as error:
        connection.sendall(messages.started_frame(Started(error=str(error), is_input_error=isinstance(error, BadInputError))))
        return
    connection.sendall(messages.started_frame(_started(script)))
    if script.is_asynchronous:
        asyncio.run(_serve_overlapping(ScriptCalls(script), connection))
    elif script.max_batch_size:
        _serve_batches(ScriptCalls(script), connection)
    else:
        _serve_in_turn(ScriptCalls(script), connection)


def _load_script(settings: WorkerSettings) -> EntryScript:
    directory = settings.model_directory
    return EntryScript.load(Path(settings.path), None if directory is None else Path(directory))


def _call_init(script: EntryScript, path: Path) -> None:
    try:
        pending = script.init()
        if inspect.iscoroutine(pending):
            asyncio.run(pending)
    except (Exception, SystemExit) as error:  # whatever the script raises
        raise failed_init(error, path) from error


def _started(script: EntryScript) -> Started:
    if script.described is not None:
        return script.described
    schema = script.schema
    concurrency = ASYNCHRONOUS_CALLS if script.is_asynchronous else 1
    if schema is None:
        return Started(
            concurrency=concurrency,
            max_batch_size=script.max_batch_size,
            uses_raw_requests=script.uses_raw_requests,
            reads_headers=script.uses_raw_requests,
            chooses_response=script.uses_raw_requests,
        )
    return Started(
        concurrency=concurrency,
        max_batch_size=script.max_batch_size,
        uses_raw_requests=script.uses_raw_requests,
        reads_headers=script.uses_raw_requests or script.tensors is not None,
        inputs={name: kind.json_schema() | {"example": kind.example()} for name, kind in schema.inputs.items()},
        optional=schema.optional,
        media_types=() if script.tensors is None else script.tensors.media_types,
        tensors=None if script.tensors is None else script.tensors.interface(),
        output=schema.output.json_schema() | {"example": schema.output.example()} if schema.output else {},
        sample=schema.sample() if schema.inputs else None,
    )


def _serve_in_turn(calls: ScriptCalls, connection: socket.socket) -> None:
    frames = FrameReader(connection.fileno())
    run, clock_s = calls.script.run, time.monotonic
    while frame := frames.next():
        prefix, head, body = frame
        started_s = clock_s()
        if started_s > prefix.seconds:
            connection.sendall(messages.answer_frame(PLAIN_ANSWER, b"", prefix.number, run_s=NOT_RUN_S))
            continue
        call = messages.read_call(head)
        request_id.set(call.request_id)
        try:
            decoded = calls.decoded(call, body)
            answer, raw = calls.encoded(run(**decoded.arguments), decoded)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the script raises
            answer, raw = calls.failed(call, error, body)
        connection.sendall(messages.answer_frame(answer, raw, prefix.number, run_s=clock_s() - started_s))


def _serve_batches(calls: ScriptCalls, connection: socket.socket) -> None:
    frames = FrameReader(connection.fileno())
    while frame := frames.next():
        batch = [frame]
        while batch[-1][0].more:
            following = frames.next()
            if following is None:
                return
            batch.append(following)
        started_s = time.monotonic()
        answers = run_batch(calls, [(messages.read_call(head), body) for _, head, body in batch])
        run_s = time.monotonic() - started_s
        pairs = zip(batch, answers, strict=True)
        sent = [messages.answer_frame(answer, raw, frame[0].number, run_s=run_s) for frame, (answer, raw) in pairs]
        connection.sendall(b"".join(sent))


async def _serve_overlapping(calls: ScriptCalls, connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    tasks: set[asyncio.Task[None]] = set()
    while raw := await reader.read(messages.PREFIX_SIZE):
        raw += await reader.readexactly(messages.PREFIX_SIZE - len(raw))
        prefix = messages.prefix_at(raw, 0)
        call = messages.read_call(await reader.readexactly(prefix.head_size))
        body = await reader.readexactly(prefix.body_size)
        task = asyncio.create_task(_answer_one(calls, call, body, prefix.number, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer_one(calls: ScriptCalls, call: Call, body: bytes, number: int, writer: asyncio.StreamWriter) -> None:
    started_s = time.monotonic()
    request_id.set(call.request_id)  # of this task only
    try:
        decoded = calls.decoded(call, body)
        answer, raw = calls.encoded(await calls.script.run(**decoded.arguments), decoded)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the script raises
        answer, raw = calls.failed(call, error, body)
    writer.write(messages.answer_frame(answer, raw, number, run_s=time.monotonic() - started_s))
    await writer.drain()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], _load_script)
