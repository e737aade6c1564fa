"""The decoder for lists of floats accepts what the general decoder accepts, with the same values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.contracts.variant import TensorSpec
from edgewright.errors import EdgewrightError
from edgewright.serving.http.messages import Request
from edgewright.serving.variants import json_protocol
from edgewright.serving.variants.float_lists import FloatLists

INPUT = TensorSpec(name="x", dtype="float32", shape=("N", 2))
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(1 << 70), 1 << 70),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
)
NESTED = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=12)


def decoder(*inputs: TensorSpec) -> FloatLists:
    found = FloatLists.of(inputs)
    assert found is not None
    return found


@given(st.one_of(NESTED, st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=3)))
def test_what_it_accepts_has_the_values_of_the_general_decoder(nested: Any) -> None:
    request = Request({}, json.dumps({"data": nested}).encode())
    decoded = decoder(INPUT).decode(request)
    try:
        general = json_protocol.decode(request, [INPUT])
    except EdgewrightError:
        general = None
    if decoded is not None and general is not None:
        np.testing.assert_array_equal(decoded["x"], general["x"])
        assert decoded["x"].dtype == general["x"].dtype
    assert decoded is None or general is not None or beyond_64_bits(nested)


def beyond_64_bits(nested: Any) -> bool:
    """Return True if a list holds an integer that only the decoder for floats can hold."""
    return any(map(beyond_64_bits, nested)) if isinstance(nested, list) else isinstance(nested, int) and abs(nested) >= 1 << 63


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"data": [["1", "2"]]}', id="text"),
        pytest.param(b'{"data": [[true, 2]]}', id="true"),
        pytest.param(b'{"data": [[null, 2]]}', id="null"),
        pytest.param(b'{"data": [[1e39, 2]]}', id="beyond float32"),
        pytest.param(b'{"data": [[1, 2], [3]]}', id="ragged"),
        pytest.param(b'{"data": [1, 2]}', id="one axis"),
        pytest.param(b'{"data": {"x": [[1, 2]]}}', id="by name"),
        pytest.param(b'{"data": [[1, 2]], "images": []}', id="another field"),
        pytest.param(b'{"data": [[1, 2]]', id="cut off"),
        pytest.param(b"\xff", id="no text"),
    ],
)
def test_what_needs_a_look_is_left_to_the_general_decoder(body: bytes) -> None:
    assert decoder(INPUT).decode(Request({}, body)) is None


def test_other_media_types_are_left_to_the_general_decoder() -> None:
    assert decoder(INPUT).decode(Request({"content-type": "application/x-npy"}, b'{"data": [[1, 2]]}')) is None


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param([INPUT, INPUT], id="two inputs"),
        pytest.param([TensorSpec(name="x", dtype="int64", shape=("N", 2))], id="integers"),
        pytest.param([TensorSpec(name="x", dtype="object", shape=("N",))], id="text"),
    ],
)
def test_it_is_for_models_with_one_input_of_floats(inputs: list[TensorSpec]) -> None:
    assert FloatLists.of(inputs) is None
