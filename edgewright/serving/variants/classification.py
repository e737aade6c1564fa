"""The classification extension of the Open Inference Protocol: an output as its highest values with their classes.

A requested output with the parameter `classification: N` is returned as text, `SCORE:INDEX` or `SCORE:INDEX:LABEL`, N per sample,
the highest score first (extension_classification.md of triton-inference-server). A score has six decimal places, as Triton's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.errors import SamplesError

PARAMETER = "classification"
_LARGEST_COUNT = (1 << 31) - 1


def class_count(name: str, parameters: dict[str, Any]) -> int:
    """Return the number of classes that a requested output asks for; 0 for the output itself.

    Raises:
        SamplesError: the parameter is not a number of classes.
    """
    count = parameters.get(PARAMETER, 0)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _LARGEST_COUNT:
        raise SamplesError(f"output {name}: {PARAMETER} must be a number of classes, not {str(count)[:40]!r}")
    return count


def classified(name: str, array: npt.NDArray[Any], count: int, labels: Sequence[str]) -> npt.NDArray[Any]:
    """Return the `count` highest values of each sample as text, [samples, min(count, classes)].

    Args:
        name: of the output.
        array: the output; its first axis counts the samples.
        count: at least 1.
        labels: names of the classes; used if there is one for each value of a sample.

    Raises:
        SamplesError: the output does not hold numbers, or a single value without samples.
    """
    if array.dtype.kind not in "fiu" or array.ndim == 0:
        raise SamplesError(
            f"output {name} must hold numbers per sample for {PARAMETER}, but it is {array.dtype}{list(array.shape)}"
        )
    values = array.reshape(len(array), -1) if array.size else np.zeros((len(array), 0), array.dtype)
    named = labels if len(labels) == values.shape[1] else None
    best = _descending(values)[:, :count]
    texts = [[_text(row[index], int(index), named) for index in indices] for row, indices in zip(values, best, strict=True)]
    return np.array(texts, dtype=object).reshape(best.shape)


def _descending(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the order of each row: the highest value first, equal ones by their index, NaN last."""
    if values.dtype.kind == "f":
        return np.argsort(-values, axis=1, kind="stable")
    reversed_columns = np.argsort(values[:, ::-1], axis=1, kind="stable")[:, ::-1]  # -values overflows unsigned integers
    order: npt.NDArray[np.intp] = values.shape[1] - 1 - reversed_columns
    return order


def _text(value: Any, index: int, labels: Sequence[str] | None) -> str:
    score = f"{value:.6f}" if isinstance(value, np.floating) else str(value)
    return f"{score}:{index}" if labels is None else f"{score}:{index}:{labels[index]}"
