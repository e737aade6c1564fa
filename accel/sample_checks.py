"""Check samples, and the source's outputs for them, for what makes a comparison or an accuracy meaningless.

Refused: NaN for which the source gives NaN, too. The rest are warnings: equal samples, labels of one class, outputs that are the
same for all samples, inputs without effect, and pictures whose channels have different ranges.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.backends.backend import Session
from accel.comparison import run_all
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.stored_arrays import pieces
from edgewright.errors import OperationError, SamplesError

log = logging.getLogger(__name__)

_FLOATS, _OTHERS = 8, 32
"""Samples that are run once more to find inputs without effect; classes and other integers change less often than floats."""

_COLORS = 3
_RANGE_RATIO = 16.0
"""Ratio of the ranges of two channels from which one of them was prepared in another way: 255 for bytes beside fractions."""

_Array = npt.NDArray[Any]


def check_numbers(samples: Samples, outputs: Tensors, where: object) -> None:
    """Check that the source gives numbers for the samples from the file `where`; `outputs` are the source's.

    Raises:
        SamplesError: an output is NaN for samples that hold NaN, or for all samples.
    """
    for name, output in outputs.items():
        failed = _with_nan(output)
        if len(failed) != samples.count or not failed.any():
            continue
        for given, array in samples.inputs.items():
            both = np.flatnonzero(failed & _with_nan(array))
            if both.size:
                raise SamplesError(
                    f"{where}: samples must not hold NaN where the model gives NaN for it, but {given} holds NaN in "
                    f"{both.size} of {samples.count} samples, first in sample {both[0]}, and output {name} is NaN there: "
                    "leave those out"
                )
        if failed.all():
            raise SamplesError(f"{where}: the model gives NaN in output {name} for every sample: give samples of its real input")


def warn_of_uninformative(session: Session, samples: Samples, outputs: Tensors, *, batch_size: int) -> None:
    """Log a warning for each property that makes a comparison on these samples say little; `outputs` are the source's."""
    if samples.labels is not None and samples.labels.size > 1 and (samples.labels == samples.labels.flat[0]).all():
        log.warning("one class label=%d: the accuracy covers no other class", samples.labels.flat[0])
    if samples.count < 2:
        return
    if all(_equal_rows(array) for array in samples.inputs.values()):
        log.warning("equal samples count=%d: other inputs are not compared", samples.count)
        return
    for name, array in samples.inputs.items():
        _warn_of_ranges(name, array)
    constant = [name for name, array in outputs.items() if array.size and _equal_rows(array)]
    for name in constant:
        log.warning("constant output=%s samples=%d: it does not depend on the model's input", name, samples.count)
    if len(samples.inputs) > 1 and len(constant) < len(outputs):
        floats = any(array.dtype.kind == "f" for array in outputs.values())
        for name in inputs_without_effect(session, samples.slice(0, _FLOATS if floats else _OTHERS), batch_size=batch_size):
            log.warning("unused input=%s: no output depends on it", name)


def _warn_of_ranges(name: str, array: _Array) -> None:
    """Log a warning if one color of pictures has a far wider or narrower range than another."""
    axis = next((axis for axis in (1, 3) if array.ndim == 4 and array.shape[axis] == _COLORS), None)
    if axis is None or array.dtype.kind not in "fiu" or array.size == array.shape[0] * _COLORS:
        return
    others = tuple(other for other in range(4) if other != axis)
    ends = [(piece.min(axis=others), piece.max(axis=others)) for piece in pieces(array)]
    low, high = np.min([end[0] for end in ends], axis=0), np.max([end[1] for end in ends], axis=0)
    spans = np.asarray(high, np.float64) - low
    wide, narrow = int(spans.argmax()), int(spans.argmin())
    if np.isfinite(spans).all() and spans[wide] >= _RANGE_RATIO * spans[narrow] and spans[wide] > 0:
        log.warning(
            "channel ranges input=%s channel_%d=[%g, %g] channel_%d=[%g, %g]: prepare all channels in the same way",
            *(name, narrow, low[narrow], high[narrow], wide, low[wide], high[wide]),
        )


def inputs_without_effect(session: Session, samples: Samples, *, batch_size: int) -> list[str]:
    """Return the inputs whose values can be exchanged among the samples without changing an output."""
    before = run_all(session, samples, batch_size=batch_size)
    unused = []
    for name, array in samples.inputs.items():
        moved = np.roll(array, 1, axis=0)
        if _equal(moved, array):
            continue
        with contextlib.suppress(OperationError):  # lengths, for example, that do not fit the other samples
            after = run_all(session, Samples({**samples.inputs, name: moved}), batch_size=batch_size)
            if all(_equal(array, after[output]) for output, array in before.items()):
                unused.append(name)
    return unused


def _equal(first: _Array, second: _Array) -> bool:
    return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


def _equal_rows(array: _Array) -> bool:
    return all(bool((piece == array[:1]).all()) for piece in pieces(array))


def _with_nan(array: _Array) -> npt.NDArray[np.bool_]:
    """Return True for each row with NaN."""
    if array.dtype.kind != "f" or array.size == 0:
        return np.zeros(len(array), np.bool_)
    return np.concatenate([np.isnan(piece.reshape(len(piece), -1)).any(axis=1) for piece in pieces(array)])
