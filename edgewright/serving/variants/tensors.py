"""Strict conversion of received numbers to the model's dtypes.

Text is never parsed as a number. An integer must fit the model's type. A number that overflows a smaller float is rejected and
does not become infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError, first_line

_Array = npt.NDArray[Any]


def from_nested(nested: Any, spec: TensorSpec, *, may_mix: bool = True) -> _Array:
    """Convert nested JSON lists to an array in the dtype of `spec`; `check_inputs` compares its shape later.

    `may_mix` False states that no list mixes numbers with true or false (`may_hold_booleans`).

    Raises:
        SamplesError: the lists are ragged, or a value does not fit the dtype.
    """
    try:
        array = np.asarray(nested)
    except (ValueError, OverflowError) as error:
        raise SamplesError(f"input {spec.name} must be regular nested lists of numbers: {first_line(error)}") from error
    if spec.dtype == "object" or may_mix:
        _check_unmixed(nested, array, spec)
    return as_dtype(array, spec)


def may_hold_booleans(body: bytes) -> bool:
    """Return False if JSON certainly holds no true and no false; a look at every value would double the time of decoding."""
    return b"true" in body or b"false" in body


def holds_booleans(nested: Any) -> bool:
    """Return True if a list holds true or false, which NumPy converts to 1 and 0 among numbers."""
    return bool in _kinds(nested, set())


def _check_unmixed(nested: Any, array: _Array, spec: TensorSpec) -> None:
    """Raise `SamplesError` for values that NumPy would convert to one another: true is not 1, and 1 is not "1"."""
    kinds = _kinds(nested, set())
    if array.dtype.kind != "O" and len(kinds) > 1 and (bool in kinds or array.dtype.kind == "U"):
        named = " and ".join(sorted({_JSON_NAMES.get(kind, kind.__name__) for kind in kinds}))
        raise SamplesError(f"input {spec.name} must be {spec.dtype}, but a mixture of {named} was found")


def _kinds(nested: Any, kinds: set[type]) -> set[type]:
    """Add the types of all values in nested lists to `kinds`, one innermost list at a time."""
    if not isinstance(nested, list | tuple):
        kinds.add(type(nested))
    elif nested and isinstance(nested[0], list | tuple):
        for inner in nested:
            _kinds(inner, kinds)
    else:
        kinds.update(map(type, nested))
    return kinds


_JSON_NAMES = {bool: "true or false", int: "numbers", float: "numbers", str: "text", type(None): "null", dict: "objects"}


def reshaped(flat: _Array, shape: Sequence[int], subject: str, *, order: Literal["C", "F"] = "C") -> _Array:
    """Return `flat`, which has the number of values that `shape` needs, in that shape.

    Raises:
        SamplesError: NumPy has no array of that shape: too many axes, or an empty one with a size beyond 64 bits.
    """
    try:
        return flat.reshape(tuple(shape), order=order)
    except (ValueError, OverflowError) as error:
        raise SamplesError(f"{subject} must have a shape that NumPy can hold: {first_line(error)}") from error


def as_dtype(array: _Array, spec: TensorSpec) -> _Array:
    """Return `array` in the dtype of `spec`.

    Raises:
        SamplesError: a value would change its meaning.
    """
    dtype = np.dtype(spec.dtype)
    if array.dtype == dtype and array.dtype.kind != "O":
        return array
    if dtype.kind == "O" and array.dtype.kind in "UO":
        return _as_text(array, spec)
    if dtype.kind == "f" and array.dtype.kind in "fiu":
        return _as_float(array, dtype, spec)
    if dtype.kind in "iu" and array.dtype.kind in "iu":
        return _as_integer(array, dtype, spec)
    raise SamplesError(f"input {spec.name} must be {spec.dtype}, but {_kind(array)} was found")


def _as_float(array: _Array, dtype: np.dtype[Any], spec: TensorSpec) -> _Array:
    with np.errstate(over="ignore"):
        converted: _Array = array.astype(dtype)
    if not np.isfinite(converted).all() and np.isfinite(array).all():
        raise SamplesError(f"input {spec.name} must fit {spec.dtype}, but {array.flat[np.abs(array).argmax()]} does not")
    return converted


def _as_integer(array: _Array, dtype: np.dtype[Any], spec: TensorSpec) -> _Array:
    bounds = np.iinfo(dtype)
    if array.size and (int(array.min()) < bounds.min or int(array.max()) > bounds.max):
        raise SamplesError(
            f"input {spec.name} must fit {spec.dtype} ({bounds.min} to {bounds.max}), "
            f"but its values are {array.min()} to {array.max()}"
        )
    return array.astype(dtype)


def _as_text(array: _Array, spec: TensorSpec) -> _Array:
    if not all(isinstance(value, str) for value in array.flat):
        raise SamplesError(f"input {spec.name} must be text, but {_kind(array)} was found")
    return array.astype(object)


def _kind(array: _Array) -> str:
    kinds = {"U": "text", "O": "a mixture with null, objects or numbers beyond 64 bits", "b": "bool"}
    return kinds.get(array.dtype.kind, array.dtype.name)
