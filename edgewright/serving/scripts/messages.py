"""Frames between the server and a worker process: a prefix of fixed size, a head in MessagePack, and a body of raw bytes.

A frame of the server is a call; one of the worker answers the call with the same number. The first one of a worker is `Started`.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

_PREFIX = struct.Struct("<IIIQd")
PREFIX_SIZE = _PREFIX.size
VERSION = 1
"""Number of the model in routes and answers, where no registry gives one."""
NOT_RUN_S = -1.0
"""Seconds in the frame of a call that the worker did not run, because its time to start had passed."""
_READ_BYTES = 1 << 16


class Prefix(NamedTuple):
    """Fields of the prefix of a frame."""

    head_size: int
    body_size: int
    more: int
    """Calls of the same batch that follow this one."""
    number: int
    """Of a call and of its answer; unique per worker."""
    seconds: float
    """Of a call: time of the monotonic clock until which it may start. Of an answer: time that the call took in the worker."""


class Call(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Head of a request to a worker; the body of the HTTP request follows."""

    request_id: str
    method: str = "POST"
    query: str = ""
    path: str = "/score"
    headers: dict[str, str] = {}


class Answer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Head of the answer to a call; the body of the HTTP response follows. A frame without a head has the values below."""

    status: int = 200
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    has_failed: bool = False
    """True if `run` raised an exception, or returned what JSON cannot hold."""


PLAIN_ANSWER = Answer()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Argument of a worker process, in JSON."""

    path: str
    """The script or the model."""
    name: str
    """Of the model in routes and answers."""
    model_directory: str | None = None
    trust: bool = False
    """True if the model file may hold code, as a pickle does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInterface:
    """Inputs and outputs as the Open Inference Protocol describes them (`GET /v2/models/NAME`)."""

    platform: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """First frame of a worker: the result of importing the script and of `init`."""

    error: str = ""
    """One line that says why the script does not start; empty if it does."""
    is_input_error: bool = False
    """True if the script itself cannot be used; False if `init` failed."""
    concurrency: int = 1
    """Calls that the worker answers at the same time."""
    uses_raw_requests: bool = False
    chooses_response: bool = False
    """True if the script may answer with any status and media type, because it handles the requests itself."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """JSON Schema of each parameter of `run`, with an example; empty without declared inputs."""
    optional: tuple[str, ...] = ()
    output: dict[str, Any] = field(default_factory=dict)
    """JSON Schema of the result, with an example; empty without a declared output."""
    sample: Any = None
    """Body of an example request; None without declared inputs."""
    body: dict[str, Any] | None = None
    """JSON Schema of the whole body, if it is not an object with the inputs."""
    media_types: tuple[str, ...] = ()
    """Media types of a body, and of the answer, besides JSON."""
    reads_headers: bool = False
    """True if an answer depends on the headers of its request."""
    max_batch_size: int = 0
    """Calls that `run` takes at once, as a list; 0 if it takes one."""
    tensors: TensorInterface | None = None
    """None if the Open Inference Protocol cannot be used."""


_encoder = msgspec.msgpack.Encoder()
_calls = msgspec.msgpack.Decoder(Call)
_answers = msgspec.msgpack.Decoder(Answer)
_started = msgspec.msgpack.Decoder(Started)
_settings = msgspec.json.Decoder(WorkerSettings)


def head_of(call: Call) -> bytes:
    """Return the head of the frame of a call."""
    return _encoder.encode(call)


def call_frame(head: bytes, body: bytes, number: int, *, start_by_s: float, more: int = 0) -> bytes:
    """Return the frame of a call; see `Prefix`."""
    return b"".join((_PREFIX.pack(len(head), len(body), more, number, start_by_s), head, body))


def answer_frame(answer: Answer, body: bytes, number: int, *, run_s: float) -> bytes:
    """Return the frame of an answer."""
    head = b"" if answer is PLAIN_ANSWER else _encoder.encode(answer)
    return b"".join((_PREFIX.pack(len(head), len(body), 0, number, run_s), head, body))


def started_frame(started: Started) -> bytes:
    """Return the first frame of a worker."""
    head = _encoder.encode(started)
    return _PREFIX.pack(len(head), 0, 0, 0, 0.0) + head


def prefix_at(raw: bytes | bytearray, offset: int) -> Prefix:
    """Return the prefix of the frame that starts at an offset."""
    return Prefix._make(_PREFIX.unpack_from(raw, offset))


def read_call(head: bytes) -> Call:
    """Return the call in a head."""
    return _calls.decode(head)


def read_answer(head: bytes) -> Answer:
    """Return the answer in a head, which may be empty."""
    return _answers.decode(head) if head else PLAIN_ANSWER


def read_started(head: bytes) -> Started:
    """Return the declarations in the head of the first frame."""
    return _started.decode(head)


def read_settings(text: str) -> WorkerSettings:
    """Return the settings in the argument of a worker process."""
    return _settings.decode(text)


class FrameReader:
    """Frames of a socket, read with one system call for all that have arrived."""

    def __init__(self, descriptor: int) -> None:
        self._stream = io.open(descriptor, "rb", buffering=_READ_BYTES, closefd=False)  # noqa: UP020, SIM115

    def next(self) -> tuple[Prefix, bytes, bytes] | None:
        """Wait for the next frame; return its prefix, head and body, or None at the end."""
        raw = self._stream.read(PREFIX_SIZE)
        if len(raw) < PREFIX_SIZE:
            return None
        prefix = prefix_at(raw, 0)
        return prefix, self._stream.read(prefix.head_size), self._stream.read(prefix.body_size)
