"""Rows of tables that batch jobs score, and the weights of a model for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def rows(count: int, start: int = 0) -> pa.Table:
    """Return rows with an id, a store and four numbers that follow from the id."""
    ids = np.arange(start, start + count)
    numbers = features(ids)
    columns = {"id": ids, "store": np.where(ids % 3 == 0, "north", "south")}
    return pa.table({**columns, **{f"f{index}": numbers[:, index] for index in range(4)}})


def features(ids: Any) -> Any:
    """Return the four numbers of each id."""
    return np.stack([np.asarray(ids, np.float32) * (place + 1) % 17 for place in range(4)], axis=1).astype(np.float32)
