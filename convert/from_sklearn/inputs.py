"""The inputs of an estimator: a matrix of numbers, a matrix of text, documents, or a matrix with columns of text beside it.

numbers only    `features` float32 [N, columns]
text only       `features` string [N, columns], or `text` string [N] for a vectorizer of documents
both            `features` float32 [N, number columns], and each column of text as string [N], by its name in the data frame
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_sklearn.rules.encoders import is_text
from convert.from_sklearn.rules.transformers import column_indices
from convert.from_trees.ensemble import FEATURES
from convert.graph.emit import graph_input
from convert.source.samples import Examples

_DOCUMENT = -1
"""Stands for a document in a set of columns."""
_KEEPS_COLUMNS = ("SimpleImputer", "FunctionTransformer")
_INNER = ("best_estimator_", "estimator_", "regressor_")

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The columns of an estimator, and which of them hold text."""

    names: tuple[str, ...]
    texts: tuple[int, ...]
    document: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """The columns that hold numbers."""
        return tuple(column for column in range(len(self.names)) if column not in self.texts)

    def values(self) -> list[ir.Value]:
        """Return the inputs of the graph."""
        if self.document:
            return [graph_input("text", ir.DataType.STRING, (None,))]
        if self.texts and not self.numbers:
            return [graph_input(FEATURES, ir.DataType.STRING, (None, len(self.names)))]
        columns = [graph_input(self.names[column], ir.DataType.STRING, (None,)) for column in self.texts]
        return [graph_input(FEATURES, ir.DataType.FLOAT, (None, len(self.numbers))), *columns]

    def table(self, network: Network, values: list[ir.Value]) -> Table:
        """Return the table of the graph's inputs."""
        if self.document:
            return Table(texts={0: values[0]})
        if self.texts and not self.numbers:
            columns = {column: network.columns(values[0], [column]) for column in self.texts}
            flat = network.integers([-1])
            return Table(texts={column: network.node("Reshape", text, flat) for column, text in columns.items()})
        return Table(values[0], self.numbers if self.texts else None, dict(zip(self.texts, values[1:], strict=True)))

    def rows(self, arrays: list[_Array]) -> _Array:
        """Return what the estimator takes, from the arrays of the graph's inputs."""
        if not self.texts or not self.numbers:
            return arrays[0].astype(str).astype(object) if self.texts or self.document else arrays[0]
        table = np.empty((len(arrays[0]), len(self.names)), object)
        table[:, self.numbers] = arrays[0]
        for column, array in zip(self.texts, arrays[1:], strict=True):
            table[:, column] = array.astype(str)
        return table

    def one_row(self, number: float, examples: dict[int, list[Any]]) -> _Array:
        """Return a row with the first example of each column of text, one number elsewhere, and 0 replaced by examples, too."""
        if self.document:
            return np.array(["a"], object)
        row = np.full((1, len(self.names)), number, object if self.texts else np.float64)
        for column in range(len(self.names)) if number == 0 else self.texts:
            text = column in self.texts
            known = [value for value in examples.get(column, ()) if isinstance(value, str) == text]
            row[0, column] = known[0] if known else "a" if text else number
        return row


def inputs_of(estimator: Any) -> Inputs:
    """Return the inputs of a fitted estimator."""
    found = _text_columns(estimator)
    if _DOCUMENT in found:
        return Inputs((), (), document=True)
    count = int(estimator.n_features_in_) or len(getattr(estimator, "feature_names_", ()))  # CatBoost's file lacks the first
    names = [str(name) for name in getattr(estimator, "feature_names_in_", [f"x{place}" for place in range(count)])]
    taken = {FEATURES}
    for place, name in enumerate(names):
        names[place] = name if name not in taken else f"{name}_{place}"
        taken.add(names[place])
    return Inputs(tuple(names), tuple(sorted(found)))


def examples_of(estimator: Any) -> dict[int, list[Any]]:
    """Return categories by column, for encoders that take a column as it is; documents have the column -1 and their words."""
    examples: dict[int, list[Any]] = {}
    for part, columns in _readers(estimator):
        if hasattr(part, "vocabulary_"):
            examples.setdefault(_DOCUMENT if columns is None else columns[0], []).extend(list(part.vocabulary_)[:2000])
        for place, values in enumerate(getattr(part, "categories_", ())):
            column = place if columns is None else columns[place]
            examples.setdefault(column, []).extend(value for value in values if value is not None and value == value)
    return examples


def examples_by_input(estimator: Any) -> dict[str, Examples]:
    """Return the examples of each input of the graph that has some."""
    inputs, known = inputs_of(estimator), examples_of(estimator)
    if inputs.document:
        return {"text": Examples({0: known[_DOCUMENT]}, words=True)} if known.get(_DOCUMENT) else {}
    if inputs.texts and not inputs.numbers:
        return {FEATURES: Examples({column: values for column, values in known.items() if values})}
    documents = {columns[0] for part, columns in _readers(estimator) if hasattr(part, "vocabulary_") and columns}
    texts = {
        inputs.names[column]: Examples({0: known[column]}, words=column in documents)
        for column in inputs.texts
        if known.get(column)
    }
    numbers = {place: known[column] for place, column in enumerate(inputs.numbers) if known.get(column)}
    return {**texts, FEATURES: Examples(numbers)} if numbers else texts


def _text_columns(estimator: Any) -> set[int]:
    found: set[int] = set()
    for part, columns in _readers(estimator):
        if hasattr(part, "build_analyzer"):
            found.add(_DOCUMENT if columns is None else columns[0])
        values = getattr(part, "categories_", getattr(part, "statistics_", ()))
        found |= {place if columns is None else columns[place] for place, known in enumerate(values) if is_text(known)}
    return found


def _readers(estimator: Any, columns: list[int] | None = None) -> Iterator[tuple[Any, list[int] | None]]:
    """Yield the parts of an estimator that read its columns as they are, and which; None is all."""
    yield estimator, columns
    for part in _first_parts(estimator):
        yield from _readers(part, columns)
    if hasattr(estimator, "transformers_"):
        for name, part, chosen in estimator.transformers_:
            indices = column_indices(estimator, name, chosen)
            if hasattr(part, "get_params"):
                yield from _readers(part, indices if columns is None else [columns[place] for place in indices])


def _first_parts(estimator: Any) -> Iterator[Any]:
    for name in _INNER:
        if hasattr(getattr(estimator, name, None), "get_params"):
            yield getattr(estimator, name)
            return
    if type(estimator).__name__ == "FrozenEstimator":
        yield estimator.estimator
    for _, step in getattr(estimator, "steps", ()):
        if hasattr(step, "get_params"):
            yield step
            if type(step).__name__ not in _KEEPS_COLUMNS:
                break
    for _, part in getattr(estimator, "transformer_list", ()):
        if hasattr(part, "get_params"):
            yield part
    yield from (part.estimator for part in getattr(estimator, "calibrated_classifiers_", ()))
    yield from (part for part in _members(estimator) if hasattr(part, "get_params"))


def _members(estimator: Any) -> list[Any]:
    """Return the members of an ensemble that read all columns; those of forests and boosting never read text."""
    members = getattr(estimator, "estimators_", ())
    return list(members) if isinstance(members, list) and not hasattr(estimator, "estimators_features_") else []
