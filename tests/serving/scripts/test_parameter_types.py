"""Conversion between JSON and what `run` takes, with pandas and NumPy as the judges."""

from __future__ import annotations

import datetime as dates
from typing import Any

import numpy as np
import pytest

from edgewright.errors import SamplesError
from edgewright.serving.scripts.parameter_types import (
    NumpyParameterType,
    PandasParameterType,
    ParameterType,
    StandardPythonParameterType,
)


@pytest.fixture(autouse=True)
def _pandas(require_package: Any) -> None:
    require_package("pandas")


def table() -> Any:
    import pandas

    return pandas.DataFrame({"age": [3], "name": ["a"], "share": [0.5], "seen": [None]}).astype({"seen": "float64"})


@pytest.mark.parametrize("orient", ["records", "split"])
def test_a_table_has_the_columns_and_dtypes_of_its_sample(orient: str) -> None:
    import pandas

    kind = PandasParameterType(table(), orient=orient)
    records = [{"age": 1, "name": "x", "share": 1, "seen": None}, {"age": 2, "name": "y", "share": 2, "seen": 7}]
    value: Any = (
        records if orient == "records" else {"columns": list(records[0]), "data": [list(each.values()) for each in records]}
    )
    frame = kind.to_python(value, "rows")
    expected = pandas.DataFrame(records).astype(table().dtypes.to_dict())
    pandas.testing.assert_frame_equal(frame, expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([{"age": 1}], "rows must have the columns age, name, share, seen, but name is missing"),
        ([{"age": 1.5, "name": "x", "share": 1, "seen": 1}], "column age of rows must hold int64, but it holds values"),
        ([{"age": "x", "name": "x", "share": 1, "seen": 1}], "column age of rows must hold int64"),
        (
            [{"age": 1, "name": "x", "share": True, "seen": 1}],
            "column share of rows must hold float64, but it holds true or false",
        ),
        ([{"age": 1, "name": [], "share": 1, "seen": 1}], "column name of rows must hold single values"),
        (5, "rows must be a table as JSON (records)"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(value: Any, text: str) -> None:
    with pytest.raises(SamplesError) as error:
        PandasParameterType(table()).to_python(value, "rows")
    assert str(error.value).startswith(text)


def test_the_schema_of_a_table_has_one_property_per_column() -> None:
    schema = PandasParameterType(table()).json_schema()
    assert schema["items"] == {
        "type": "object",
        "properties": {
            "age": {"type": "integer"},
            "name": {"type": ["string", "number", "boolean", "null"]},
            "share": {"type": ["number", "null"]},
            "seen": {"type": ["number", "null"]},
        },
        "required": ["age", "name", "share", "seen"],
    }


NESTED = StandardPythonParameterType(
    {"Inputs": StandardPythonParameterType({"data": NumpyParameterType(np.zeros((1, 2), np.float32))}), "scale": 1.0}
)


def test_nested_types_convert_their_fields() -> None:
    converted = NESTED.to_python({"Inputs": {"data": [[1, 2]]}, "scale": 2}, "body")
    assert converted["Inputs"]["data"].dtype == np.float32
    assert NESTED.example() == {"Inputs": {"data": [[0.0, 0.0]]}, "scale": 1.0}
    assert NESTED.json_schema()["properties"]["Inputs"]["properties"]["data"]["items"]["items"] == {"type": "number"}
    with pytest.raises(SamplesError, match=r"body\.Inputs\.data must be float32\[n, 2\], but the shape \[1, 3\] was received"):
        NESTED.to_python({"Inputs": {"data": [[1, 2, 3]]}, "scale": 2}, "body")
    with pytest.raises(SamplesError, match=r"body\.Inputs must have the field data, but it is missing"):
        NESTED.to_python({"Inputs": {}, "scale": 2}, "body")


@pytest.mark.parametrize(
    ("sample", "value", "expected"),
    [
        (1, 5, 5),
        (1.5, 5, 5.0),
        ("a", "b", "b"),
        (True, False, False),
        ([1], [2, 3], [2, 3]),
        (dates.date(2026, 1, 1), "2026-02-03", dates.date(2026, 2, 3)),
        (
            dates.datetime(2026, 1, 1, tzinfo=dates.UTC),
            "2026-02-03T04:05:06+00:00",
            dates.datetime(2026, 2, 3, 4, 5, 6, tzinfo=dates.UTC),
        ),
        (dates.timedelta(seconds=1), 2.5, dates.timedelta(seconds=2.5)),
        (1, 1.5, None),
        (1, True, None),
        (True, 1, None),
        ("a", 1, None),
        (1.5, "1", None),
        ([1], {"a": 1}, None),
        ({"a": 1}, [1], None),
        (dates.date(2026, 1, 1), "tomorrow", None),
        (dates.date(2026, 1, 1), 5, None),
    ],
)
def test_plain_values_keep_the_type_of_their_sample(sample: Any, value: Any, expected: Any) -> None:
    kind: ParameterType = StandardPythonParameterType(sample)
    if expected is None:
        with pytest.raises(SamplesError, match="^x must be "):
            kind.to_python(value, "x")
    else:
        converted = kind.to_python(value, "x")
        assert (converted, type(converted)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("sample", "value", "fits"),
    [
        (np.zeros((1, 3), np.uint8), [[255, 0, 1]], True),
        (np.zeros((1, 3), np.uint8), [[256, 0, 1]], False),
        (np.zeros((1, 3), np.uint8), [[-1, 0, 1]], False),
        (np.zeros((1, 3), np.float32), [[0.5, True, 1]], False),
        (np.zeros(1, np.int32), [2**40], False),
        (np.zeros(1, bool), [True, False], True),
        (np.zeros(1, bool), [1, 0], False),
        (np.array(["a"]), ["xyz", "b"], True),
        (np.array(["a"]), [1], False),
        (np.zeros((1, 2)), [], False),
        (np.array(0.5), 3, True),
    ],
)
def test_arrays_lose_no_value(sample: Any, value: Any, fits: bool) -> None:
    kind = NumpyParameterType(sample)
    if fits:
        np.testing.assert_array_equal(kind.to_python(value, "x"), np.asarray(value))
    else:
        with pytest.raises(SamplesError, match="^x must be"):
            kind.to_python(value, "x")
