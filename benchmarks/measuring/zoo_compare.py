"""Compare outputs of a model of the zoo: differences, signal-to-noise ratio and labels, computed with NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.measuring.zoo_sources import Arrays

MOST_DB = 150.0
"""Equal outputs; the ratio is otherwise infinite."""


def matched(reference: Arrays, actual: Arrays) -> Arrays:
    """Return `actual` under the names of `reference`: by name if all names agree, otherwise by position."""
    if set(reference) == set(actual):
        return {name: actual[name] for name in reference}
    return dict(zip(reference, actual.values(), strict=True))


def difference(reference: Arrays, actual: Arrays) -> float:
    """Return the largest difference of any output, relative to that output's largest value; integers and text must be equal."""
    return max(_difference(array, actual[name]) for name, array in reference.items())


def sqnr_db(reference: Arrays, actual: Arrays) -> float | None:
    """Return the signal-to-noise ratio of the worst float output in dB; None without one."""
    ratios = [_ratio_db(array, actual[name]) for name, array in reference.items() if array.dtype.kind == "f"]
    return min(ratios, default=None)


def agreement(reference: Arrays, actual: Arrays, classes: int | str | None) -> float | None:
    """Return the share of equal labels of the first output; None where it has none."""
    if classes is None:
        return None
    name = next(iter(reference))
    expected, found = (_labels(arrays[name], classes) for arrays in (reference, actual))
    return float((expected == found).mean()) if expected.shape == found.shape else 0.0


def _labels(output: npt.NDArray[Any], classes: int | str) -> npt.NDArray[Any]:
    return output.argmax(axis=classes) if isinstance(classes, int) else output > 0.5


def _difference(reference: npt.NDArray[Any], actual: npt.NDArray[Any]) -> float:
    if reference.size != actual.size:
        return float("inf")
    actual = actual.reshape(reference.shape)
    if reference.dtype.kind != "f":
        return 0.0 if bool((reference == actual).all()) else float("inf")
    wide, other = reference.astype(np.float64), actual.astype(np.float64)
    if not bool((np.isfinite(wide) == np.isfinite(other)).all()):
        return float("inf")
    return float(np.nanmax(np.abs(wide - other), initial=0.0) / max(np.nanmax(np.abs(wide), initial=0.0), 1e-30))


def _ratio_db(reference: npt.NDArray[Any], actual: npt.NDArray[Any]) -> float:
    if reference.size != actual.size:
        return -MOST_DB
    wide = reference.astype(np.float64).ravel()
    noise = float(np.sum((wide - actual.astype(np.float64).ravel()) ** 2))
    signal = float(np.sum(wide**2))
    if not np.isfinite(noise):
        return -MOST_DB
    return min(MOST_DB, 10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30))))
