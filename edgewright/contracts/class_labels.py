"""Labels of samples and predictions of models: by index, by name, and by the values that the classes have in the source.

A classifier of scikit-learn has classes such as 3 and 7. They are its labels' names, unless the user names them otherwise
(`--labels cat,dog`); samples may still be labelled with 3 and 7, and an output of classes holds 3 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.errors import SamplesError

_Array = npt.NDArray[Any]
_Indices = npt.NDArray[np.int64]

_TRUTH = {"True": 1.0, "False": 0.0}


def class_indices(labels: _Array, names: Sequence[str], values: Sequence[str], path: Path) -> _Indices:
    """Return the index of the class of each label.

    Args:
        labels: numbers or text, [count] or [count, …]; indices where neither names nor values are numbers of their own.
        names: names of the classes, or none.
        values: the classes' values in the source, if the names are others.
        path: the file, for messages.

    Raises:
        SamplesError: a label belongs to no class, names one class and is the value of another, or is no integer.
    """
    single = labels.ndim > 1 and math.prod(labels.shape[1:]) == 1
    flat = labels.reshape(len(labels)) if single else labels
    readings = _readings(flat, names, values)
    if not readings:
        if flat.dtype.kind not in "iub":
            raise SamplesError(
                f"{path}: labels must be one integer class index per sample, but they are {labels.dtype}{list(labels.shape)}"
            )
        return flat.astype(np.int64)
    places = [(_places(read, classes), read, classes) for read, classes in readings]
    complete = [found for found, read, classes in places if (classes[found] == read).all()]
    if not complete:
        found, read, classes = places[0]
        foreign = read[classes[found] != read]
        raise SamplesError(
            f"{path}: labels must be classes of the model ({_some(classes)}), but {foreign.flat[0]:{_form(foreign)}} is not: "
            "give the labels that it was trained with"
        )
    if any((found != complete[0]).any() for found in complete[1:]):
        raise SamplesError(
            f"{path}: labels must be the names of the classes ({_some(np.array(names, str))}) or their values in the source "
            f"({_some(np.array(values, str))}), but they are both, of different classes: give the "
            "classes names that are no numbers"
        )
    return complete[0]


def names_of_indices(indices: _Array, names: Sequence[str]) -> list[str]:
    """Return the names of classes from their indices, as numbers where a class has no name."""
    return [names[number] if 0 <= number < len(names) else str(number) for number in indices.tolist()]


def names_of_values(classes: _Array, names: Sequence[str], values: Sequence[str] = ()) -> list[str]:
    """Return the names of classes from an output that holds their values; without values of their own, these are indices."""
    if classes.dtype.kind not in "iu":
        named = dict(zip(values, names, strict=False))
        return [named.get(str(value), str(value)) for value in classes.tolist()]
    numbers = _own_numbers(values or names)
    if numbers is None:
        return names_of_indices(classes, names)
    by_number = dict(zip(numbers.tolist(), names, strict=False))
    return [by_number.get(number, str(number)) for number in classes.tolist()]


def _readings(labels: _Array, names: Sequence[str], values: Sequence[str]) -> list[tuple[_Array, _Array]]:
    """Return the labels and the classes that they may stand for: values of the source first, then names."""
    listed = [classes for classes in (values, names) if len(classes)]
    if labels.dtype.kind in "US":
        return [(labels.astype(str), np.array(classes, str)) for classes in listed]
    if labels.dtype.kind not in "iubf":
        return []
    numbers = [_numbers(classes) for classes in listed]
    own = [classes for classes in numbers if classes is not None]
    if not values and own and np.array_equal(own[0], np.arange(len(own[0]))):
        return []
    return [(labels.astype(np.float64), classes) for classes in own]


def _numbers(classes: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return the numbers that the classes are; None if they are text."""
    try:
        return np.array([_TRUTH.get(name, name) for name in classes], np.float64)
    except ValueError:
        return None


def _own_numbers(classes: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return the numbers that the classes are; None if they are text, or their indices."""
    numbers = _numbers(classes)
    return None if numbers is None or np.array_equal(numbers, np.arange(len(numbers))) else numbers


def _places(labels: _Array, classes: _Array) -> _Indices:
    """Return the index of each label among `classes`, or of another class for a label that is not among them."""
    order = np.argsort(classes)
    found = order[np.minimum(np.searchsorted(classes, labels, sorter=order), len(classes) - 1)]
    return found.astype(np.int64)


def _form(values: _Array) -> str:
    return "g" if values.dtype.kind == "f" else ""


def _some(classes: _Array, limit: int = 10) -> str:
    listed = ", ".join(f"{value:{_form(classes)}}" for value in classes[:limit])
    return listed + (", …" if len(classes) > limit else "")
