"""Numbers as they arrive to arrays as the model wants them: strictly, so that nothing is scored that was not meant.

Text is never read as a number, a whole number must fit the model's type, and a number that a smaller float cannot hold is
refused instead of becoming infinity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError, first_line

_Array = npt.NDArray[Any]


def from_nested(nested: Any, spec: TensorSpec) -> _Array:
    """Turn nested JSON lists into an array of the dtype of `spec`; its shape is checked later, with all inputs."""
    try:
        found = np.asarray(nested)
    except (ValueError, OverflowError) as ragged:
        raise SamplesError(f"input {spec.name} must be regular nested lists of numbers: {first_line(ragged)}") from ragged
    return as_dtype(found, spec)


def as_dtype(found: _Array, spec: TensorSpec) -> _Array:
    """Return `found` in the dtype of `spec`, or raise `SamplesError` when a value would change its meaning."""
    wanted = np.dtype(spec.dtype)
    if found.dtype == wanted and found.dtype.kind != "O":
        return found
    if wanted.kind == "O" and found.dtype.kind in "UO":
        return _as_text(found, spec)
    if wanted.kind == "f" and found.dtype.kind in "fiu":
        return _as_float(found, wanted, spec)
    if wanted.kind in "iu" and found.dtype.kind in "iu":
        return _as_whole(found, wanted, spec)
    raise SamplesError(f"input {spec.name} must be {spec.dtype}, but {_kind(found)} was found")


def _as_float(found: _Array, wanted: np.dtype[Any], spec: TensorSpec) -> _Array:
    with np.errstate(over="ignore"):
        array: _Array = found.astype(wanted)
    if not np.isfinite(array).all() and np.isfinite(found).all():
        raise SamplesError(f"input {spec.name} must fit {spec.dtype}, but {found.flat[np.abs(found).argmax()]} does not")
    return array


def _as_whole(found: _Array, wanted: np.dtype[Any], spec: TensorSpec) -> _Array:
    bounds = np.iinfo(wanted)
    if found.size and (int(found.min()) < bounds.min or int(found.max()) > bounds.max):
        raise SamplesError(
            f"input {spec.name} must fit {spec.dtype} ({bounds.min} to {bounds.max}), but {found.min()} to {found.max()} came"
        )
    return found.astype(wanted)


def _as_text(found: _Array, spec: TensorSpec) -> _Array:
    if not all(isinstance(value, str) for value in found.flat):
        raise SamplesError(f"input {spec.name} must be text, but {_kind(found)} was found")
    return found.astype(object)


def _kind(found: _Array) -> str:
    kinds = {"U": "text", "O": "a mixture with null, objects or numbers beyond 64 bits", "b": "bool"}
    return kinds.get(found.dtype.kind, found.dtype.name)
