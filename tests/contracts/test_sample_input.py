"""Sample inputs: every form of JSON, CSV and arrays gives the same arrays, and every bad one is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.contracts.models.sample_input import SampleInput, as_mapping, read_sample_input, sample_of_json
from edgewright.errors import BadInputError

ROWS = [[1.0, 2.5], [3.0, 4.5]]
COLUMNS = {"a": [1.0, 3.0], "b": [2.5, 4.5]}


def plain(sample: SampleInput) -> dict[str, Any]:
    return {name: array.tolist() for name, array in sample.arrays.items()}


@pytest.mark.parametrize(
    ("name", "content", "expected", "is_table"),
    [
        pytest.param("a.json", json.dumps(ROWS), {"input": ROWS}, False, id="rows"),
        pytest.param("a.json", json.dumps({"data": ROWS}), {"input": ROWS}, False, id="Azure ML"),
        pytest.param("a.json", json.dumps({"instances": ROWS}), {"input": ROWS}, False, id="TensorFlow Serving"),
        pytest.param("a.json", json.dumps({"x": ROWS, "y": [[1], [2]]}), {"x": ROWS, "y": [[1], [2]]}, False, id="names"),
        pytest.param("a.json", json.dumps({"columns": ["a", "b"], "data": ROWS}), COLUMNS, True, id="pandas, split"),
        pytest.param("a.json", json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": ROWS}}), COLUMNS, True, id="flow"),
        pytest.param("a.json", '[{"a": 1.0, "b": 2.5}, {"a": 3.0, "b": 4.5}]', COLUMNS, True, id="records"),
        pytest.param("a.json", '[{"a": "x"}, {"a": null}]', {"a": ["x", ""]}, True, id="missing text"),
        pytest.param("a.csv", "a,b\n1.0,2.5\n3.0,4.5\n", COLUMNS, True, id="CSV"),
        pytest.param("a.csv", "\ufeffa,b\r\n1.0,2.5\r\n3.0,4.5\r\n", COLUMNS, True, id="CSV of a spreadsheet"),
        pytest.param("a.csv", "1.0,2.5\n3.0,4.5\n", {"input": ROWS}, False, id="CSV without names"),
        pytest.param("a.csv", 'n,t\n1,"x, y"\n2,\n', {"n": [1, 2], "t": ["x, y", ""]}, True, id="CSV with text"),
        pytest.param("a.csv", "Infinity_1,b\n1,2\n", {"Infinity_1": [1], "b": [2]}, True, id="names like numbers"),
    ],
)  # fmt: skip
def test_a_sample_is_read(name: str, content: str, expected: dict[str, Any], is_table: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    sample = read_sample_input(tmp_path / name)
    assert (plain(sample), sample.is_table) == (expected, is_table)


def test_arrays_are_read_from_npy_and_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(ROWS, np.float32))
    np.savez(tmp_path / "a.npz", x=np.array(ROWS, np.float32), y=np.array(["p", "q"]))
    assert read_sample_input(tmp_path / "a.npy").arrays["input"].dtype == np.float32
    assert plain(read_sample_input(tmp_path / "a.npz")) == {"x": ROWS, "y": ["p", "q"]}


def test_a_missing_number_is_nan(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,\n2,3\n")
    assert np.isnan(read_sample_input(tmp_path / "a.csv").arrays["b"]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        pytest.param("none.json", None, "no such file; a sample is a file in JSON, CSV, .npy or .npz", id="missing"),
        pytest.param("a.json", b"", "must have 1 byte to 16 MiB, not 0 bytes", id="empty"),
        pytest.param("a.json", b"[1, 2", "must be complete JSON in UTF-8", id="cut JSON"),
        pytest.param("a.json", b"\xff\xfe", "must be complete JSON in UTF-8", id="UTF-16"),
        pytest.param("a.json", b"[" * 100_000, "must be complete JSON in UTF-8", id="deep JSON"),
        pytest.param("a.json", b"[]", "must have at least one row", id="no rows"),
        pytest.param("a.json", b"{}", "must have at least one row, but the file has none", id="no arrays"),
        pytest.param("a.json", b"[[1, 2], [3]]", "input must be a list whose rows have the same length", id="ragged"),
        pytest.param("a.json", b'[[1, "x"]]', "input must hold numbers, or text", id="mixture"),
        pytest.param("a.json", b'[{"a": 1}, {"b": 1}]', "all records must have the fields a, but record 2", id="records"),
        pytest.param("a.json", b'{"columns": ["a"], "data": [[1, 2]]}', "row 1 must have 1 values, one per column", id="wide"),
        pytest.param("a.json", b'{"columns": ["a"], "data": 7}', "a table must have at least one row", id="no list"),
        pytest.param("a.json", b"[" + b"9" * 400 + b"]", "must hold numbers", id="too large for 64 bits"),
        pytest.param("a.csv", b"a,b\n1\n", "row 1 must have 2 values, one per column, not 1", id="short row"),
        pytest.param("a.csv", b"a,a\n1,2\n", "must have different names, not a, a", id="a name twice"),
        pytest.param("a.csv", b"a,b\n", "must have at least one row after its column names", id="names only"),
        pytest.param("a.csv", b"a\n\xff\n", "must be CSV in UTF-8", id="Latin-1"),
        pytest.param("a.npy", b"PK\x03\x04", "must be a .npy array of numbers or text", id="cut archive"),
        pytest.param("a.npz", b"nothing", "samples must be a .npz", id="no archive"),
        pytest.param("a.parquet", b"PAR1", "a sample must be in JSON, CSV, .npy or .npz", id="another format"),
    ],
)  # fmt: skip
def test_a_bad_sample_is_one_line(name: str, content: bytes | None, line: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError) as refused:
        read_sample_input(tmp_path / name)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


columns = st.lists(st.text("abcxyz", min_size=1, max_size=4), min_size=1, max_size=4, unique=True)
numbers = st.lists(st.floats(allow_nan=False, width=32), min_size=4, max_size=4)


@given(names=columns, values=numbers)
def test_a_table_as_json_gives_the_same_table(names: list[str], values: list[float]) -> None:
    sample = SampleInput({name: np.array(values) for name in names}, is_table=True)
    again = sample_of_json(json.loads(json.dumps(as_mapping(sample))), "sample")
    assert (plain(again), again.is_table) == (plain(sample), True)
