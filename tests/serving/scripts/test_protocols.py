"""A script that declares arrays or a table takes tensors, .npy and CSV beside JSON, and answers in the same formats."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from edgewright.serving.scripts.app import ScriptApp
from edgewright.serving.scripts.options import ScriptOptions
from tests.support.serving_fixtures import Client, serving

ARRAY = """
import numpy as np
from edgewright.serving.scripts.parameter_types import NumpyParameterType, StandardPythonParameterType
from edgewright.serving.scripts.schema import input_schema, output_schema
def init(): pass
@input_schema("data", NumpyParameterType(np.zeros((1, 3), np.float32)))
@input_schema("scale", StandardPythonParameterType(1.0), optional=True)
@output_schema(NumpyParameterType(np.zeros(1, np.float32)))
def run(data, scale=1.0):
    assert data.dtype == np.float32
    return data.sum(axis=1) * np.float32(scale)
"""
TABLE = """
import pandas
from edgewright.serving.scripts.parameter_types import PandasParameterType
from edgewright.serving.scripts.schema import input_schema
def init(): pass
@input_schema("people", PandasParameterType(pandas.DataFrame({"age": [1.5], "city": ["Bern"]})))
def run(people):
    return pandas.DataFrame({"next": people["age"] + 1, "place": people["city"].str.upper()})
"""
UNDECLARED = "def init(): pass\ndef run(data): return data\n"
ROWS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
PEOPLE = pandas.DataFrame({"age": [1.5, 2.5], "city": ["Bern", "Genf"]})
INFER = "/v2/models/tested/infer"


def started(folder: Path, text: str) -> Any:
    (folder / "score.py").write_text(text)
    return serving(ScriptApp(ScriptOptions(path=folder / "score.py", queue_timeout_s=20.0), name="tested"))


@pytest.fixture(scope="module")
def array(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with started(tmp_path_factory.mktemp("array"), ARRAY) as client:
        yield client


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with started(tmp_path_factory.mktemp("table"), TABLE) as client:
        yield client


def test_tensors_for_an_array(array: Client) -> None:
    described = array.get("/v2/models/tested").json
    assert described["inputs"] == [{"name": "data", "datatype": "FP32", "shape": [-1, 3]}]
    assert described["outputs"] == [{"name": "result", "datatype": "FP32", "shape": [-1]}]
    tensor = {"name": "data", "datatype": "FP32", "shape": [2, 3], "data": ROWS.reshape(-1).tolist()}
    answer = array.post(INFER, {"id": "a", "inputs": [tensor]}).json
    assert answer["outputs"] == [{"name": "result", "shape": [2], "datatype": "FP32", "data": [6.0, 15.0]}]
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a", "tested", "1")


def test_npy_for_an_array(array: Client) -> None:
    stream = io.BytesIO()
    np.save(stream, ROWS)
    reply = array.post("/score", stream.getvalue(), "application/x-npy")
    assert np.load(io.BytesIO(reply.body)).tolist() == [6.0, 15.0]
    as_json = array.post("/score", stream.getvalue(), "application/x-npy", accept="application/json")
    assert as_json.json == [6.0, 15.0]
    from_json = array.post("/score", {"data": ROWS.tolist()}, accept="application/x-npy")
    assert np.load(io.BytesIO(from_json.body)).tolist() == [6.0, 15.0]


def test_csv_and_columns_for_a_table(table: Client) -> None:
    reply = table.post("/score", PEOPLE[["city", "age"]].to_csv(index=False).encode(), "text/csv")
    assert pandas.read_csv(io.BytesIO(reply.body)).to_dict("list") == {"next": [2.5, 3.5], "place": ["BERN", "GENF"]}
    inputs = [
        {"name": "age", "datatype": "FP64", "shape": [2], "data": [1.5, 2.5]},
        {"name": "city", "datatype": "BYTES", "shape": [2], "data": ["Bern", "Genf"]},
    ]
    outputs = table.post(INFER, {"inputs": inputs, "outputs": [{"name": "place"}]}).json["outputs"]
    assert outputs == [{"name": "place", "shape": [2], "datatype": "BYTES", "data": ["BERN", "GENF"]}]


@pytest.mark.parametrize(
    ("path", "body", "media_type", "status", "text"),
    [
        (INFER, {"inputs": []}, "application/json", 400, "the body must have the fields data, scale, but data is missing"),
        (
            INFER,
            {"inputs": [{"name": "data", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]},
            "application/json",
            400,
            "data must be float32[n, 3], but the shape [1, 2] was received",
        ),
        (
            INFER,
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]},
            "application/json",
            400,
            "unknown input x",
        ),
        (
            INFER,
            {
                "inputs": [{"name": "data", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}],
                "outputs": [{"name": "other"}],
            },
            "application/json",
            404,
            "unknown output other",
        ),
        ("/score", b"1,2,3\n", "text/csv", 415, "Content-Type must be application/json or application/x-npy, not text/csv"),
        ("/score", b"anything", "application/x-npy", 400, "the body must be one array in the .npy format"),
    ],
)
def test_what_does_not_fit_is_named(array: Client, path: str, body: Any, media_type: str, status: int, text: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = array.post(path, raw, media_type)
    assert (reply.status, text in reply.json["error"]) == (status, True), reply.json


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"age,town\n1,Bern\n", "must have the columns age, city, but city is missing"),
        (b"age,city\n1\n", "every line of the CSV must have 2 cells like the first, but line 2 has 1"),
        (b"age,city\nold,Bern\n", "column age of people must hold float64"),
        (b"\xff\xfe", "the body must be CSV in UTF-8"),
        (b"", "the body must have at least one line of CSV"),
    ],
)
def test_a_wrong_table_is_named(table: Client, body: bytes, text: str) -> None:
    reply = table.post("/score", body, "text/csv")
    assert (reply.status, text in reply.json["error"]) == (400, True), reply.json


def test_a_script_without_declarations_names_what_the_protocol_needs(tmp_path: Path) -> None:
    with started(tmp_path, UNDECLARED) as client:
        reply = client.post(INFER, {"inputs": []})
        assert (reply.status, "must declare arrays or a table with input_schema" in reply.json["error"]) == (400, True)
