"""End a scoring process whose model does not return from a run, so that its supervisor replaces it.

A run inside a native runtime cannot be interrupted. A thread therefore compares the age of the current run with the time limit.
When the limit has passed, the requests of that run get a 504, those that wait get a 503, and the process exits. A small model
runs in the event loop itself, which is then blocked: the thread writes the 504 to the open connections on its own.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Set
from contextlib import suppress
from typing import Any

from edgewright.contracts import wire
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.messages import HttpError
from edgewright.serving.variants.batching import Batcher

HUNG_EXIT = 70
"""Exit code after a run that did not end (EX_SOFTWARE of sysexits.h)."""
DEFAULT_LIMIT_S = 30.0
_ANSWER_S = 1.0
"""Time in which an event loop that is not blocked starts and finishes the responses."""
_LONGEST_PAUSE_S = 0.5


def watch(app: HttpApp, batcher: Batcher, connections: Set[Any], limit_s: float) -> None:
    """Start the thread that ends this process if a run of the model takes longer than `limit_s`."""
    threading.Thread(target=_watch, args=(app, batcher, connections, limit_s), name="inference-watchdog", daemon=True).start()


def _watch(app: HttpApp, batcher: Batcher, connections: Set[Any], limit_s: float) -> None:
    while True:
        time.sleep(min(_LONGEST_PAUSE_S, limit_s / 4))
        since = batcher.running_since
        if since is not None and time.monotonic() - since > limit_s:
            _answer_open_requests(app, batcher, connections, limit_s)
            sys.stderr.write(f"an inference must end within {limit_s:g} s, but it did not\n")
            sys.stderr.flush()
            os._exit(HUNG_EXIT)


def _answer_open_requests(app: HttpApp, batcher: Batcher, connections: Set[Any], limit_s: float) -> None:
    text = f"the model did not answer within {limit_s:g} s; it is restarted: send other values, or try again"
    others = HttpError(503, "the model is restarted: try again", (("retry-after", "1"),))
    app.draining = True
    expired = threading.Event()
    batcher.expire(HttpError(504, text), others, expired)
    if expired.wait(_ANSWER_S):
        _wait_for_responses(connections)
    else:
        _write_directly(connections, text)


def _wait_for_responses(connections: Set[Any]) -> None:
    deadline_s = time.monotonic() + _ANSWER_S
    while time.monotonic() < deadline_s and _unanswered(connections):
        time.sleep(0.01)
    time.sleep(0.05)  # the last bytes leave the transport


def _write_directly(connections: Set[Any], text: str) -> None:
    body = wire.encode({"error": text})
    head = "HTTP/1.1 504 Gateway Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    response = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    for connection in _unanswered(connections):
        if connection.transport.get_extra_info("sslcontext") is None:  # TLS needs the event loop
            with suppress(OSError):
                os.write(connection.transport.get_extra_info("socket").fileno(), response)


def _unanswered(connections: Set[Any]) -> list[Any]:
    """Return the connections with a request that the model has not answered."""
    return [one for one in list(connections) if one.is_answering]
