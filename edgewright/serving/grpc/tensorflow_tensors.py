"""TensorFlow's `TensorProto` as a NumPy array and back (tensorflow/core/framework/tensor.proto).

The values are in `tensor_content`, row by row and little-endian, or in the field of their type, where the last value stands for
all that follow.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.errors import SamplesError
from edgewright.serving.grpc.tensorflow_messages import TENSOR_MESSAGES
from edgewright.serving.variants.tensors import reshaped

DTYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "object": 7,
    "int64": 9,
    "bool": 10,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}
"""Numbers of the enumeration DataType in types.proto by NumPy's name of the type; `object` is text."""
_NAMES = {number: name for name, number in DTYPES.items()}
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "object": "string_val",
}
"""Field of the values of a type; the other integers share `int_val`, and float16 is stored as the bits of an integer."""
_MAX_REPEATED = 1 << 22
"""Values that one repeated value may stand for: more would let a small message allocate gigabytes."""


def to_array(tensor: Any, name: str) -> npt.NDArray[Any]:
    """Return the array of a tensor; text is an array of `bytes`.

    Raises:
        SamplesError: the type is unknown, or the values do not fit the shape.
    """
    if tensor.dtype not in _NAMES:
        raise SamplesError(f"tensor {name}: dtype must be the number of {', '.join(DTYPES)}, not {tensor.dtype}")
    dtype = _NAMES[tensor.dtype]
    shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise SamplesError(f"tensor {name}: shape must be sizes of 0 or more, not {list(shape)}")
    count = math.prod(shape)
    flat = _from_content(tensor, name, dtype) if tensor.tensor_content else _from_values(tensor, dtype, count, name)
    if flat.size != count:
        raise SamplesError(f"tensor {name}: shape {list(shape)} needs {count} values, not {flat.size}")
    return reshaped(flat, shape, f"tensor {name}")


def to_proto(array: npt.NDArray[Any]) -> Any:
    """Return the tensor of an array; an array of objects is text, as `str` or as `bytes`."""
    tensor = TENSOR_MESSAGES["TensorProto"](dtype=DTYPES[array.dtype.name])
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype.kind == "O":
        tensor.string_val.extend(value if isinstance(value, bytes) else str(value).encode() for value in array.flat)
    else:
        tensor.tensor_content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return tensor


def _from_content(tensor: Any, name: str, dtype: str) -> npt.NDArray[Any]:
    if dtype == "object":
        raise SamplesError(f"tensor {name}: text must be in string_val, not in tensor_content")
    little_endian = np.dtype(dtype).newbyteorder("<")
    if len(tensor.tensor_content) % little_endian.itemsize:
        raise SamplesError(f"tensor {name}: {len(tensor.tensor_content)} bytes are not a whole number of {dtype} values")
    return np.frombuffer(tensor.tensor_content, little_endian)


def _from_values(tensor: Any, dtype: str, count: int, name: str) -> npt.NDArray[Any]:
    if dtype == "float16":
        flat = _bits(tensor.half_val, name).view(np.float16)
    else:
        flat = np.array(list(getattr(tensor, _FIELDS.get(dtype, "int_val"))), object)
        flat = flat if dtype == "object" else _converted(flat, dtype, name)
    if not 0 < flat.size < count:
        return flat
    if count > _MAX_REPEATED:
        raise SamplesError(f"tensor {name}: one value may stand for at most {_MAX_REPEATED} others, not for {count}")
    return np.concatenate([flat, np.full(count - flat.size, flat[-1], flat.dtype)])


def _bits(values: Any, name: str) -> npt.NDArray[np.uint16]:
    bits: npt.NDArray[np.uint16] = _converted(np.array(list(values), object), "uint16", name)
    return bits


def _converted(values: npt.NDArray[Any], dtype: str, name: str) -> npt.NDArray[Any]:
    try:
        return np.array(values.tolist(), dtype)
    except OverflowError as error:
        raise SamplesError(f"tensor {name}: a value must fit {dtype}, but one does not: {error}") from error
