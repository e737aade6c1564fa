"""Rules for encoders of categories: each category is looked up in a table of what the encoder itself returns for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_trees.ensemble import ML_DOMAIN

_UNSEEN = "\x00 no category \x00"


def is_text(values: Any) -> bool:
    """Return True if categories or fill values hold text."""
    array = np.asarray(values)
    return array.dtype.kind in "US" or (array.dtype.kind == "O" and any(isinstance(value, str) for value in array.ravel()))


def _encoded(network: Network, encoder: Any, table: Table) -> Table:
    """Look up every column; categories that the encoder does not know get its value for those, or zeros if it refuses them."""
    parts = []
    for place, known in enumerate(encoder.categories_):
        rows = _table_of(encoder, place)
        column = table.texts.get(place)
        if column is not None:
            positions = _text_position(network, known, column)
        else:
            numeric = network.numbers(network.selected(table, [place]))
            positions = _number_position(network, known, network.node("Reshape", numeric, network.integers([-1])))
        parts.append(network.node("Gather", network.floats(rows), positions, axis=0))
    return Table(network.joined(parts))


def _text_position(network: Network, known: Any, column: ir.Value) -> ir.Value:
    keys = [(str(value), place) for place, value in enumerate(known) if isinstance(value, str)]
    return network.node(
        "LabelEncoder",
        column,
        domain=ML_DOMAIN,
        keys_strings=[key for key, _ in keys],
        values_int64s=[place for _, place in keys],
        default_int64=len(known),
    )


def _number_position(network: Network, known: Any, column: ir.Value) -> ir.Value:
    """Return the place of each number among the categories; the last is NaN, if it is one."""
    values = np.asarray(known, np.float64)
    numbers = np.flatnonzero(~np.isnan(values))
    found = network.node(
        "LabelEncoder",
        column,
        domain=ML_DOMAIN,
        keys_floats=[float(np.float32(value)) for value in values[numbers]],
        values_int64s=numbers.tolist(),
        default_int64=len(values),
    )
    if len(numbers) == len(values):
        return found
    missing = int(np.flatnonzero(np.isnan(values))[0])
    return network.node("Where", network.node("IsNaN", column), network.integers([missing]), found)


def _table_of(encoder: Any, place: int) -> npt.NDArray[np.float32]:
    """Return the encoder's own rows for the categories of one column, and its row for an unknown one."""
    known = encoder.categories_[place]
    first = [values[0] for values in encoder.categories_]
    columns = _columns_of(encoder, place)
    rows = np.array([[*first[:place], value, *first[place + 1 :]] for value in known], _dtype(encoder))
    table = _dense(encoder.transform(rows))[:, columns]
    unseen = _UNSEEN if is_text(known) else np.nanmax(np.asarray(known, np.float64), initial=0.0) + 12345.0
    try:
        other = _dense(encoder.transform(np.array([[*first[:place], unseen, *first[place + 1 :]]], _dtype(encoder))))[:, columns]
    except ValueError:  # handle_unknown="error": the estimator refuses the sample
        other = np.zeros((1, table.shape[1]))
    return np.concatenate([table, other]).astype(np.float32)


def _columns_of(encoder: Any, place: int) -> slice:
    """Return the columns of the encoder's output that come from one column of its input."""
    widths = [1] * len(encoder.categories_)
    if hasattr(encoder, "_n_features_outs"):
        widths = list(encoder._n_features_outs)
    elif type(encoder).__name__ == "TargetEncoder":
        widths = [len(encoder.encodings_) // len(encoder.categories_)] * len(encoder.categories_)
    start = int(sum(widths[:place]))
    return slice(start, start + int(widths[place]))


def _dtype(encoder: Any) -> Any:
    return object if any(np.asarray(values).dtype.kind in "OUS" for values in encoder.categories_) else np.float64


def _dense(matrix: Any) -> npt.NDArray[Any]:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)


TRANSFORMED = {"OneHotEncoder": _encoded, "OrdinalEncoder": _encoded, "TargetEncoder": _encoded}
