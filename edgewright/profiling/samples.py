"""Samples of a profile: the requests that the clients send in turn.

.json    the body of one request, as in {"data": [[1.0, 2.0]]}
.jsonl   the body of one request per line
.npy     an array of samples, shape (samples, …): each becomes a request {"data": [sample]}
.npz     the same with its only array
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import BadInputError

MAX_REQUESTS = 1000
"""Samples beyond these are not sent: a profile needs variety, not all data."""


def read_samples(path: Path) -> tuple[bytes, ...]:
    """Return the bodies of the requests.

    Raises:
        BadInputError: the file cannot be read, is empty or is of another format.
    """
    try:
        bodies = _READERS[path.suffix](path)
    except KeyError:
        raise BadInputError(f"samples must be a file {', '.join(_READERS)}, not {path}") from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"samples must be readable as {path.suffix}, but {path} is not: {error}") from error
    if not bodies:
        raise BadInputError(f"samples must have at least one request, but {path} has none")
    return bodies


def _json(path: Path) -> tuple[bytes, ...]:
    raw = path.read_bytes()
    json.loads(raw)
    return (raw,)


def _json_lines(path: Path) -> tuple[bytes, ...]:
    lines = [line for line in path.read_bytes().splitlines() if line.strip()][:MAX_REQUESTS]
    for line in lines:
        json.loads(line)
    return tuple(lines)


def _array(path: Path) -> tuple[bytes, ...]:
    return _rows(np.load(path, allow_pickle=False))


def _only_array(path: Path) -> tuple[bytes, ...]:
    with np.load(path, allow_pickle=False) as arrays:
        if len(arrays.files) != 1:
            raise ValueError(f"it must have one array, not {len(arrays.files)} ({', '.join(arrays.files)})")
        return _rows(arrays[arrays.files[0]])


def _rows(samples: Any) -> tuple[bytes, ...]:
    if samples.ndim < 1:
        raise ValueError("it must have an array of samples, not one number")
    return tuple(json.dumps({"data": [sample.tolist()]}).encode() for sample in samples[:MAX_REQUESTS])


_READERS = {".json": _json, ".jsonl": _json_lines, ".npy": _array, ".npz": _only_array}
