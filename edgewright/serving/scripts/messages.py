"""Frames between the server and a worker process: the lengths of head and body, a head in JSON, and a body of raw bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import msgspec

_LENGTHS = struct.Struct("<II")
LENGTHS_SIZE = _LENGTHS.size
VERSION = 1
"""Number of the model in routes and answers, where no registry gives one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Head of a request to a worker; the body of the HTTP request follows."""

    number: int
    """Unique per worker; the answer repeats it, because answers of asynchronous scripts overtake each other."""
    request_id: str
    method: str = "POST"
    query: str = ""
    path: str = "/score"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Head of the answer to a call; the body of the HTTP response follows."""

    number: int
    status: int = 200
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    run_ms: float = 0.0
    """Time in `run`, with decoding and encoding."""
    has_failed: bool = False
    """True if `run` raised an exception, or returned what JSON cannot hold."""


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
    tensors: TensorInterface | None = None
    """None if the Open Inference Protocol cannot be used."""


def encode(head: Call | Answer | Started, body: bytes = b"") -> bytes:
    """Return one frame."""
    raw = msgspec.json.encode(head)
    return b"".join((_LENGTHS.pack(len(raw), len(body)), raw, body))


def lengths(prefix: bytes) -> tuple[int, int]:
    """Return the lengths of head and body from the first `LENGTHS_SIZE` bytes of a frame."""
    head, body = _LENGTHS.unpack(prefix)
    return head, body


CALLS = msgspec.json.Decoder(Call)
ANSWERS = msgspec.json.Decoder(Answer)
STARTED = msgspec.json.Decoder(Started)
SETTINGS = msgspec.json.Decoder(WorkerSettings)
