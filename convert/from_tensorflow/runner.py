"""Convert with TensorFlow: `python -m convert.from_tensorflow.runner`, always in a process with limits (resource_limits.py).

The graph is written to a folder. The request names it (`Freezing`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from convert.from_tensorflow.reader import convert_frozen, freeze
from convert.source.options import SourceRequest
from edgewright.contracts import wire
from edgewright.errors import EdgewrightError, OperationError, cause_of
from edgewright.worker_process import serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Freezing:
    """The request to the process: a source, and the folder for its graph."""

    source: SourceRequest
    folder: str


def handle(raw: bytes) -> bytes:
    """Answer one request: write the graph of the source into the folder."""
    logging.disable(logging.CRITICAL)  # tf2onnx logs errors that are reported in one line
    request = wire.decode(raw, Freezing, what="request")
    source = Path(request.source.path)
    try:
        convert_frozen(freeze(request.source.kind, source, request.source.options), source, Path(request.folder))
    except EdgewrightError:
        raise
    except Exception as error:  # TensorFlow and tf2onnx raise errors of every kind
        raise OperationError(f"{source}: converting it failed: {cause_of(error)}") from error
    return b""


if __name__ == "__main__":
    serve(handle)
