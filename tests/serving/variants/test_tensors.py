"""Received numbers keep their values in the model's dtype, or are rejected."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError
from edgewright.serving.variants.tensors import as_dtype, from_nested


def spec(dtype: str) -> TensorSpec:
    return TensorSpec(name="x", dtype=dtype, shape=("N",))


@pytest.mark.parametrize(
    ("nested", "dtype"),
    [
        pytest.param([1, 2], "float32", id="whole numbers for floats"),
        pytest.param([1.5, 2], "float64", id="a mixture"),
        pytest.param([0, 255], "uint8", id="both ends of uint8"),
        pytest.param([-128, 127], "int8", id="both ends of int8"),
        pytest.param([True, False], "bool", id="truth"),
        pytest.param(["a", "é"], "object", id="text"),
    ],
)
def test_a_value_that_fits_is_kept(nested: list[Any], dtype: str) -> None:
    array = from_nested(nested, spec(dtype))
    assert (array.dtype, array.tolist()) == (np.dtype(dtype), nested)


@pytest.mark.parametrize(
    ("nested", "dtype", "message"),
    [
        pytest.param([256], "uint8", "input x must fit uint8 (0 to 255), but its values are 256 to 256", id="over"),
        pytest.param([-1], "uint8", "input x must fit uint8 (0 to 255), but its values are -1 to -1", id="under"),
        pytest.param([1.0], "int32", "input x must be int32, but float64 was found", id="a float for a whole number"),
        pytest.param([70000.0], "float16", "input x must fit float16, but 70000.0 does not", id="beyond half precision"),
        pytest.param([1], "bool", "input x must be bool, but int64 was found", id="a number for truth"),
        pytest.param([1], "object", "input x must be object, but int64 was found", id="a number for text"),
        pytest.param(["a", None], "object", "input x must be text, but a mixture with null", id="null for text"),
        pytest.param([["a", 1]], "object", "must be object, but a mixture of numbers and text", id="a number among texts"),
        pytest.param([["a"], [True]], "object", "but a mixture of text and true or false", id="truth among texts"),
        pytest.param([[1], [True]], "int64", "but a mixture of numbers and true or false", id="truth among whole numbers"),
        pytest.param([[True, 0]], "bool", "but a mixture of numbers and true or false", id="a number among truths"),
        pytest.param([2**70], "float32", "input x must be float32, but a mixture with null", id="beyond 64 bits"),
    ],
)
def test_a_value_that_does_not_fit_is_rejected(nested: list[Any], dtype: str, message: str) -> None:
    with pytest.raises(SamplesError, match=re.escape(message)):
        from_nested(nested, spec(dtype))


plain_arrays = arrays.arrays(
    dtype=st.one_of(arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes(sizes=(16, 32, 64))),
    shape=st.integers(1, 5),
    elements={"allow_nan": False, "allow_infinity": False},
)


@settings(deadline=None)
@given(plain_arrays, st.sampled_from(["int8", "uint8", "int32", "int64", "float32", "float64"]))
def test_law_integers_are_kept_exactly_or_rejected(sent: npt.NDArray[Any], dtype: str) -> None:
    try:
        array = as_dtype(sent, spec(dtype))
    except SamplesError:
        return
    assert array.dtype == np.dtype(dtype)
    assert np.isfinite(array).all()
    assert dtype.startswith("float") or array.tolist() == sent.tolist()
