"""Find the columns of a fitted scikit-learn estimator that hold text, from the transformers that encode them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def text_columns(estimator: Any) -> set[str]:
    """Return the names of the columns whose fitted categories or vocabulary are text."""
    return {name for transformer, columns in _assigned(estimator) for name in columns if _is_of_text(transformer, columns, name)}


def _assigned(estimator: Any) -> Iterator[tuple[Any, list[str]]]:
    """Yield the transformers of named columns with their columns."""
    steps = getattr(estimator, "steps", None)
    inner = steps[0][1] if steps else getattr(estimator, "best_estimator_", None)
    if inner is not None:
        yield from _assigned(inner)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    for _, transformer, columns in getattr(estimator, "transformers_", ()):
        if isinstance(transformer, str) or callable(columns):
            continue
        listed = [columns] if isinstance(columns, str | int) else list(columns)
        yield transformer, [names[column] if isinstance(column, int) else str(column) for column in listed]
    if hasattr(estimator, "categories_"):
        yield estimator, names


def _is_of_text(transformer: Any, columns: list[str], name: str) -> bool:
    for part in [transformer, *[step[1] for step in getattr(transformer, "steps", ())]]:
        if hasattr(part, "vocabulary_"):
            return True
        categories = getattr(part, "categories_", None)
        if categories is not None and len(categories) == len(columns):
            values = categories[columns.index(name)]
            return values.dtype.kind in "OUS" and any(isinstance(value, str) for value in values)
    return False
