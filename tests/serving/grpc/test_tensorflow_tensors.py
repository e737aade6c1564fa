"""TensorFlow reads the tensors that the gRPC server writes, and writes those that it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgewright.errors import SamplesError
from edgewright.serving.grpc.tensorflow_messages import TENSOR_MESSAGES
from edgewright.serving.grpc.tensorflow_tensors import DTYPES, to_array, to_proto

NUMBERS = [name for name in DTYPES if name != "object"]


@pytest.fixture(scope="module")
def tf(require_package: Callable[[str], None]) -> Any:
    require_package("tensorflow")
    import tensorflow

    return tensorflow


def array_of(dtype: str, shape: tuple[int, ...] = (2, 3)) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(3).integers(0, 2 if dtype == "bool" else 120, shape)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_go_both_ways(tf: Any, dtype: str) -> None:
    array = array_of(dtype)
    written = TENSOR_MESSAGES["TensorProto"].FromString(tf.make_tensor_proto(array).SerializeToString())
    np.testing.assert_array_equal(to_array(written, "x"), array)
    parsed = tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(to_proto(array).SerializeToString()))
    assert parsed.dtype == array.dtype
    np.testing.assert_array_equal(parsed, array)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (1,), (4, 2)], ids=str)
def test_values_in_the_field_of_their_type_are_read(tf: Any, dtype: str, shape: tuple[int, ...]) -> None:
    value = array_of(dtype, ()).item()
    proto = tf.make_tensor_proto(value, dtype=dtype, shape=shape)  # a scalar, which stands for all values
    assert not proto.tensor_content
    read = to_array(TENSOR_MESSAGES["TensorProto"].FromString(proto.SerializeToString()), "x")
    np.testing.assert_array_equal(read, tf.make_ndarray(proto))
    assert read.shape == shape


def test_text_goes_both_ways(tf: Any) -> None:
    written = TENSOR_MESSAGES["TensorProto"].FromString(tf.make_tensor_proto([["a", "ü"]]).SerializeToString())
    assert to_array(written, "x").tolist() == [[b"a", "ü".encode()]]
    proto = to_proto(np.array([["a", "ü"]], object))
    assert tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(proto.SerializeToString())).tolist() == [[b"a", "ü".encode()]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"dtype": 1, "tensor_content": bytes(3)}, "3 bytes are not a whole number of float32 values", id="bytes"),
        pytest.param({"dtype": 7, "tensor_content": b"abc"}, "text must be in string_val, not in tensor_content", id="text"),
        pytest.param({"dtype": 4, "int_val": [300]}, "a value must fit uint8, but one does not", id="beyond uint8"),
        pytest.param({"dtype": 99}, "dtype must be the number of", id="dtype"),
        pytest.param({"dtype": 1, "tensor_shape": {"unknown_rank": True}}, "shape must be sizes of 0 or more", id="no rank"),
        pytest.param({"dtype": 1, "tensor_shape": {"dim": [{"size": -1}]}}, "shape must be sizes of 0 or more", id="free axis"),
        pytest.param({"dtype": 1}, r"shape \[\] needs 1 values, not 0", id="no value"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplesError, match=message):
        to_array(TENSOR_MESSAGES["TensorProto"](**fields), "x")
