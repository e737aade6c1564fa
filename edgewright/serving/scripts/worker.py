"""The worker process of an entry script: `python -m edgewright.serving.scripts.worker FD SETTINGS`.

It imports the script, calls `init`, and answers one call after the other on the socket FD; the calls of an asynchronous `run`
overlap. What the script prints or logs goes to standard error, each line with the time and the id of its request. The process
ends when the server closes the socket.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dates
import inspect
import io
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import orjson

from edgewright.contracts.connection.http_errors import status_of
from edgewright.errors import BadInputError, EdgewrightError, NotFoundError, SamplesError, one_line
from edgewright.serving.http.messages import HttpError, Request
from edgewright.serving.scripts import messages, protocols
from edgewright.serving.scripts.entry_script import EntryScript, failed_init, print_traceback
from edgewright.serving.scripts.messages import Answer, Call, Started, WorkerSettings
from edgewright.serving.scripts.raw import RawRequest, RawResponse
from edgewright.serving.variants.inference_request import InferRequest

ASYNCHRONOUS_CALLS = 32
"""Calls of an asynchronous `run` that a worker answers at the same time."""

_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="init")


def main(descriptor: int, settings: str, load: Callable[[WorkerSettings], EntryScript]) -> None:
    """Run the worker until the server closes the socket; `load` opens what `settings`, a `WorkerSettings` in JSON, names."""
    os.dup2(2, 1)  # a library's output on standard output belongs to the log as well
    sys.stdout = sys.stderr = _LogStream(sys.stderr)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    connection = socket.socket(fileno=descriptor)
    try:
        parsed = messages.SETTINGS.decode(settings)
        script = load(parsed)
        _call_init(script, Path(parsed.path))
    except EdgewrightError as error:
        connection.sendall(messages.encode(Started(error=str(error), is_input_error=isinstance(error, BadInputError))))
        return
    connection.sendall(messages.encode(_started(script)))
    if script.is_asynchronous:
        asyncio.run(_serve_overlapping(script, connection))
    else:
        _serve_in_turn(script, connection)


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
            uses_raw_requests=script.uses_raw_requests,
            chooses_response=script.uses_raw_requests,
        )
    return Started(
        concurrency=concurrency,
        uses_raw_requests=script.uses_raw_requests,
        inputs={name: kind.json_schema() | {"example": kind.example()} for name, kind in schema.inputs.items()},
        optional=schema.optional,
        media_types=() if script.tensors is None else script.tensors.media_types,
        tensors=None if script.tensors is None else script.tensors.interface(),
        output=schema.output.json_schema() | {"example": schema.output.example()} if schema.output else {},
        sample=schema.sample() if schema.inputs else None,
    )


def _serve_in_turn(script: EntryScript, connection: socket.socket) -> None:
    stream = connection.makefile("rb")
    while prefix := stream.read(messages.LENGTHS_SIZE):
        head, body = map(stream.read, messages.lengths(prefix))
        call = messages.CALLS.decode(head)
        started = time.perf_counter()
        _request_id.set(call.request_id)
        try:
            decoded = _decoded(script, call, body)
            answer, raw = _encoded(script.run(**decoded.arguments), decoded)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the script raises
            answer, raw = _failed(call, error)
        connection.sendall(messages.encode(_timed(answer, started), raw))


async def _serve_overlapping(script: EntryScript, connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    tasks: set[asyncio.Task[None]] = set()
    while prefix := await reader.read(messages.LENGTHS_SIZE):
        prefix += await reader.readexactly(messages.LENGTHS_SIZE - len(prefix))
        head_size, body_size = messages.lengths(prefix)
        call = messages.CALLS.decode(await reader.readexactly(head_size))
        body = await reader.readexactly(body_size)
        task = asyncio.create_task(_answer_one(script, call, body, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer_one(script: EntryScript, call: Call, body: bytes, writer: asyncio.StreamWriter) -> None:
    started = time.perf_counter()
    _request_id.set(call.request_id)  # of this task only
    try:
        decoded = _decoded(script, call, body)
        answer, raw = _encoded(await script.run(**decoded.arguments), decoded)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the script raises
        answer, raw = _failed(call, error)
    writer.write(messages.encode(_timed(answer, started), raw))
    await writer.drain()


def _timed(answer: Answer, started: float) -> Answer:
    return replace(answer, run_ms=(time.perf_counter() - started) * 1000)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A call with the arguments of `run`, and the formats of its answer."""

    call: Call
    arguments: dict[str, Any]
    infer: InferRequest | None = None
    has_formats: bool = False
    """True if the answer may be tensors, .npy or CSV."""

    @property
    def model_name(self) -> str:
        """The name in the path of the Open Inference Protocol."""
        return self.call.path.removeprefix("/v2/models/").removesuffix(protocols.INFER)


def _decoded(script: EntryScript, call: Call, body: bytes) -> _Decoded:
    if script.schema is None or script.tensors is None or call.method != "POST" or script.uses_raw_requests:
        return _Decoded(call, _arguments(script, call, body))
    values = script.tensors.values(Request(call.headers, body), call.path)
    if values is None:
        return _Decoded(call, _arguments(script, call, body), has_formats=True)
    fields, infer = values
    return _Decoded(call, script.schema.arguments(fields), infer, has_formats=True)


def _arguments(script: EntryScript, call: Call, body: bytes) -> dict[str, Any]:
    """Return the arguments of `run`: the whole request, the declared parameters, or the body as text."""
    if script.uses_raw_requests:
        request = RawRequest(method=call.method, query_string=call.query, headers=call.headers, data=body, path=call.path)
        return {_only_parameter(script): request}
    text = body if call.method == "POST" else orjson.dumps(_query_of(call))
    if script.schema is not None and script.schema.inputs:
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise SamplesError(f"the body must be JSON: {error}") from error
        return script.schema.arguments(document)
    try:
        return {_only_parameter(script): text.decode()}
    except UnicodeDecodeError as error:
        raise SamplesError("the body must be text in UTF-8; a script that takes bytes needs the decorator rawhttp") from error


def _query_of(call: Call) -> dict[str, str]:
    return RawRequest(method=call.method, query_string=call.query, headers=call.headers, data=b"").args


def _only_parameter(script: EntryScript) -> str:
    return next(iter(inspect.signature(script.run).parameters), "data")


def _encoded(result: Any, decoded: _Decoded) -> tuple[Answer, bytes]:
    call = decoded.call
    if not isinstance(result, RawResponse):
        request = Request(call.headers, b"")
        response = protocols.answer(request, result, decoded.infer, decoded.model_name) if decoded.has_formats else None
        if response is None:
            return Answer(number=call.number), _json(result)
        return Answer(number=call.number, media_type=response.media_type, headers=response.headers), response.body
    headers = {name.lower(): str(value) for name, value in result.headers.items()}
    media_type = headers.pop("content-type", "application/json" if result.is_json else "text/plain; charset=utf-8")
    message = result.message
    raw = _json(message) if result.is_json else message.encode() if isinstance(message, str) else message
    answer = Answer(
        number=call.number,
        status=result.status_code,
        media_type=media_type,
        headers=tuple(headers.items()),
        has_failed=result.has_failed,
    )
    return answer, raw


def _json(result: Any) -> bytes:
    return orjson.dumps(result, option=_JSON_OPTIONS, default=_plain)


def _plain(value: Any) -> Any:
    """Convert what JSON has no type for: arrays in any memory order, NumPy scalars, tables and columns."""
    if hasattr(value, "to_dict"):
        return value.to_dict(orient="records") if hasattr(value, "columns") else value.to_dict()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"run() returned {type(value).__name__}, which JSON cannot hold")


def _failed(call: Call, error: BaseException) -> tuple[Answer, bytes]:
    """Return the answer to a call that failed; the traceback of a failure of the script goes to the log, not to the client."""
    if isinstance(error, SamplesError | NotFoundError | HttpError):
        return Answer(number=call.number, status=status_of(error)), orjson.dumps({"error": one_line(error)})
    print_traceback(error)
    text = f"the script failed on this request: its log has the reason under request {call.request_id}"
    return Answer(number=call.number, status=500, has_failed=True), orjson.dumps({"error": text})


class _LogStream(io.TextIOBase):
    """A text stream that puts the time and the id of the request before each line."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._unfinished: dict[str, str] = {}

    def write(self, text: str) -> int:
        """Write all complete lines; the rest waits for its end."""
        request_id = _request_id.get()
        *lines, rest = (self._unfinished.pop(request_id, "") + text).split("\n")
        if rest:
            self._unfinished[request_id] = rest
        stamp = dates.datetime.now(dates.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._target.write("".join(f"{stamp} {request_id} {line}\n" for line in lines))
        self._target.flush()
        return len(text)

    def flush(self) -> None:
        """Flush the lines that are written."""
        self._target.flush()

    def fileno(self) -> int:
        """Return the file descriptor of standard error."""
        return self._target.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], _load_script)
