"""Read `{"data": [[...], ...]}` of a model with one input of floats, in half of the time of the general decoder.

The decoder knows the type of every value, so what it accepts needs no look at the kinds of the values: text, booleans and null
are refused while they are parsed. Whatever it refuses is read again by json_protocol.py, which accepts it or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.serving.http.messages import JSON, Request

_MEDIA_TYPES = ("", JSON)


class FloatLists:
    """The decoder for one model."""

    def __init__(self, spec: TensorSpec) -> None:
        """Prepare to decode nested lists with as many levels as the input has axes."""
        nested: Any = float
        for _ in spec.shape:
            nested = list[nested]
        document: Any = msgspec.defstruct("Document", [("data", nested)], forbid_unknown_fields=True)
        self._decode = msgspec.json.Decoder(document).decode
        self._name, self._dtype = spec.name, np.dtype(spec.dtype)

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec]) -> FloatLists | None:
        """Return the decoder, None for a model with several inputs or one that is no array of floats."""
        is_suitable = len(inputs) == 1 and inputs[0].dtype in ("float32", "float64") and len(inputs[0].shape) > 0
        return cls(inputs[0]) if is_suitable else None

    def decode(self, request: Request) -> Tensors | None:
        """Return the input, or None for a request that the general decoder reads."""
        if request.media_type not in _MEDIA_TYPES:
            return None
        try:
            values = self._decode(request.body).data
            with np.errstate(over="ignore"):
                array = np.array(values, self._dtype)
        except (ValueError, OverflowError, RecursionError):  # msgspec's errors, and NumPy's for ragged lists
            return None
        return {self._name: array} if np.isfinite(array).all() else None  # a number was too large for the dtype
