"""Model files without a script: the answers are those of the framework in this process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas
import pytest
import sklearn.datasets
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from convert.frameworks import import_keras
from edgewright.errors import ModelError, SamplesError
from edgewright.serving.http.messages import Request
from edgewright.serving.nocode import requests
from edgewright.serving.nocode.frameworks import load_model
from edgewright.serving.nocode.identify import Framework, framework_of
from edgewright.serving.nocode.model import LoadedModel
from edgewright.serving.nocode.worker import respond
from edgewright.serving.scripts.app import ScriptApp
from edgewright.serving.scripts.options import ScriptOptions
from edgewright.serving.scripts.raw import RawRequest
from tests.support.serving_fixtures import Client, serving

IRIS, KINDS = sklearn.datasets.load_iris(return_X_y=True)
ROWS = IRIS[::30]
PEOPLE = pandas.DataFrame({"age": [20.0, 30.0, 40.0, 50.0], "city": ["Bern", "Basel", "Bern", "Genf"]})


@contextlib.contextmanager
def served(path: Path) -> Iterator[Client]:
    framework = framework_of(path)
    assert framework is not None
    options = ScriptOptions(path=path, trust=True, worker_module="edgewright.serving.nocode.worker", queue_timeout_s=10.0)
    with serving(ScriptApp(options, name="tested", backend=framework)) as client:
        yield client


@pytest.fixture(scope="module")
def estimator() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, KINDS)


@pytest.fixture(scope="module")
def iris(estimator: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = tmp_path_factory.mktemp("iris") / "iris.pkl"
    joblib.dump(estimator, path)
    with served(path) as client:
        yield client


@pytest.fixture(scope="module")
def pipeline() -> Any:
    columns = ColumnTransformer([("n", StandardScaler(), ["age"]), ("t", OneHotEncoder(), ["city"])])
    return make_pipeline(columns, LogisticRegression()).fit(PEOPLE, ["a", "b", "b", "a"])


@pytest.fixture(scope="module")
def people(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("people") / "people.joblib"
    joblib.dump(pipeline, path)
    return load_model(path, Framework.SCIKIT_LEARN, trust=True)


def ask(model: LoadedModel, body: Any, path: str = "/score", **headers: str) -> Any:
    """Return the answer of the worker's own function to a request, without a process in between."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return json.loads(
        respond(RawRequest(method="POST", query_string="", headers=sent, data=raw, path=path), model, "tested").message
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"data": ROWS.tolist()}, "result"),
        ({"data": {"data": ROWS.tolist()}}, "result"),
        ({"instances": ROWS.tolist()}, "predictions"),
        ({"Inputs": {"data": ROWS.tolist()}, "GlobalParameters": {}}, "Results"),
        ({"input_data": {"columns": [0, 1, 2, 3], "index": list(range(5)), "data": ROWS.tolist()}}, "result"),
    ],
)
def test_rows_in_each_form_of_json(iris: Client, estimator: Any, body: Any, field: str) -> None:
    reply = iris.post("/score", body)
    assert (reply.status, reply.json) == (200, {field: estimator.predict(ROWS).tolist()})


def test_a_request_chooses_the_method(iris: Client, estimator: Any) -> None:
    reply = iris.post("/score", {"data": ROWS.tolist(), "method": "predict_proba"})
    np.testing.assert_allclose(reply.json["result"], estimator.predict_proba(ROWS))


def test_arrays_and_csv(iris: Client, estimator: Any) -> None:
    stream = io.BytesIO()
    np.save(stream, ROWS)
    binary = iris.post("/score", stream.getvalue(), "application/x-npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(binary.body)), estimator.predict(ROWS))
    text = pandas.DataFrame(ROWS).to_csv(index=False, header=False).encode()
    lines = iris.post("/score", text, "text/csv")
    assert pandas.read_csv(io.BytesIO(lines.body))["predict"].tolist() == estimator.predict(ROWS).tolist()


def test_the_open_inference_protocol(iris: Client, estimator: Any) -> None:
    described = iris.get("/v2/models/tested").json
    assert described["inputs"] == [{"name": "data", "datatype": "FP64", "shape": [-1, 4]}]
    tensor = {"name": "data", "datatype": "FP64", "shape": list(ROWS.shape), "data": ROWS.reshape(-1).tolist()}
    wanted = [{"name": "predict_proba"}, {"name": "predict"}]
    outputs = iris.post("/v2/models/tested/infer", {"id": "7", "inputs": [tensor], "outputs": wanted}).json["outputs"]
    np.testing.assert_allclose(np.reshape(outputs[0]["data"], outputs[0]["shape"]), estimator.predict_proba(ROWS))
    assert outputs[1]["data"] == estimator.predict(ROWS).tolist()


def test_binary_tensors(iris: Client, estimator: Any) -> None:
    raw = ROWS.astype("<f8").tobytes()
    tensor = {"name": "data", "datatype": "FP64", "shape": list(ROWS.shape), "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    reply = iris.post(
        "/v2/models/tested/infer", head + raw, "application/octet-stream", Inference_Header_Content_Length=str(len(head))
    )
    length = int(reply.headers["inference-header-content-length"])
    assert np.frombuffer(reply.body[length:], "<i8").tolist() == estimator.predict(ROWS).tolist()


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"data": [[1, 2, 3]]}, 400, "must have shape [N, 4], but the samples have shape [1, 3]"),
        ({"data": [[1, 2, 3, "x"]]}, 400, "input data must be float64, but a mixture of numbers and text was found"),
        ({"data": [[1, 2, 3, True]]}, 400, "input data must be float64, but a mixture of numbers and true or false was found"),
        ({"data": [[1, 2], [3]]}, 400, "input data must be regular nested lists of numbers"),
        ({"data": []}, 400, "must have shape [N, 4]"),
        ({"data": [[1, 2, 3, None]]}, 400, "the model cannot score these values: Input X contains NaN."),
        ({"data": [[1, 2, 3, 4]], "method": "fit"}, 400, "method must be one of predict, predict_proba"),
        (
            {"data": [[1, 2, 3, 4]], "more": 1},
            400,
            """the fields of the body must be "data" and "method", but 'more' was received""",
        ),
        ({"values": []}, 400, """the body must have the field "data" with the values, but it has 'values'"""),
        ([1], 400, 'the body must be a JSON object with the field "data"'),
        (b"{", 400, "the body must be JSON"),
        (b'{"data": [[NaN, 1, 2, 3]]}', 400, "the body must be JSON"),
    ],
)
def test_values_that_do_not_fit_are_named(iris: Client, body: Any, status: int, text: str) -> None:
    reply = iris.post("/score", body)
    assert (reply.status, text in reply.json["error"]) == (status, True), reply.json


@pytest.mark.parametrize(
    "data",
    [
        PEOPLE.to_dict("records"),
        PEOPLE.to_dict("list"),
        PEOPLE[["city", "age"]].to_dict("split"),
        PEOPLE.values.tolist(),
    ],
    ids=["records", "columns", "split", "rows"],
)
def test_tables_with_named_columns(people: LoadedModel, pipeline: Any, data: Any) -> None:
    assert ask(people, {"data": data}) == {"result": pipeline.predict(PEOPLE).tolist()}


def test_csv_with_a_header_in_another_order(people: LoadedModel, pipeline: Any) -> None:
    text = PEOPLE[["city", "age"]].to_csv(index=False).encode()
    assert ask(people, text, content_type="text/csv", accept="application/json") == {"result": pipeline.predict(PEOPLE).tolist()}


def test_columns_are_tensors_of_the_open_inference_protocol(people: LoadedModel, pipeline: Any) -> None:
    inputs = [
        {"name": "age", "datatype": "FP64", "shape": [4], "data": PEOPLE["age"].tolist()},
        {"name": "city", "datatype": "BYTES", "shape": [4], "data": PEOPLE["city"].tolist()},
    ]
    outputs = ask(people, {"inputs": inputs}, "/v2/models/tested/infer")["outputs"]
    assert outputs == [{"name": "predict", "shape": [4], "datatype": "BYTES", "data": pipeline.predict(PEOPLE).tolist()}]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([{"age": 3.0}], "column 'city' is missing: the columns of the model are age, city"),
        ([{"age": 3.0, "city": "Bern", "x": 1}], "unknown column 'x': the columns of the model are age, city"),
        ([{"age": "old", "city": "Bern"}], "input age must be float64, but text was found"),
        ([{"age": 3.0, "city": 7}], "column 'city' must hold text, but 7 was received"),
        ([{"age": 3.0, "city": "Bern"}, {"age": 3.0}], "every record must have the fields age, city, but record 1 has others"),
        ([[3.0]], '"data" must be a list of rows with 2 values (age, city), but a row with 1 was received'),
        ({"age": [1, 2], "city": ["Bern"]}, "every column must have the same number of rows, not {'age': 2, 'city': 1}"),
        ({"age": [], "city": []}, "at least one row is needed, but the table has none"),
        ([{"age": 3.0, "city": "Rom"}], "the model cannot score these values: Found unknown categories ['Rom'] in column 0"),
    ],
)
def test_a_wrong_column_is_named(people: LoadedModel, data: Any, text: str) -> None:
    with pytest.raises(SamplesError) as error:
        ask(people, {"data": data})
    assert text in str(error.value)


def test_lightgbm_and_xgboost(tmp_path: Path) -> None:
    binary = (KINDS == 0).astype(int)
    gradient = lightgbm.train({"verbose": -1, "objective": "binary", "num_threads": 1}, lightgbm.Dataset(IRIS, binary), 3)
    gradient.save_model(tmp_path / "gradient.txt")
    extreme = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(IRIS, binary), 3)
    extreme.save_model(tmp_path / "extreme.ubj")
    for name, expected in (("gradient.txt", gradient.predict(ROWS)), ("extreme.ubj", extreme.predict(xgboost.DMatrix(ROWS)))):
        framework = framework_of(tmp_path / name)
        assert framework is not None
        model = load_model(tmp_path / name, framework, trust=False)
        np.testing.assert_allclose(ask(model, {"data": ROWS.tolist()})["result"], expected, rtol=1e-6)
        with pytest.raises(SamplesError, match=r"must have shape \[N, 4\]"):
            ask(model, {"data": [[1.0]]})


@pytest.mark.filterwarnings("ignore")
def test_keras_and_a_saved_model(tmp_path: Path) -> None:
    keras = import_keras()
    left, right = keras.Input((2,), name="left"), keras.Input((3,), name="right")
    network = keras.Model([left, right], keras.layers.Dense(2, name="scores")(keras.layers.Concatenate()([left, right])))
    network.save(tmp_path / "network.keras")
    network.export(tmp_path / "saved", verbose=False)
    values = {"left": [[1.0, 2.0]], "right": [[3.0, 4.0, 5.0]]}
    expected = network([np.array(values["left"]), np.array(values["right"])])
    for name in ("network.keras", "saved"):
        framework = framework_of(tmp_path / name)
        assert framework is not None
        model = load_model(tmp_path / name, framework, trust=False)
        np.testing.assert_allclose(ask(model, {"data": values})["result"], expected, rtol=1e-5)
        with pytest.raises(SamplesError, match=r"input right float32\[N, 3\] is missing"):
            ask(model, {"data": {"left": [[1.0, 2.0]]}})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.pkl", "model.pkl: this pickle cannot be opened: "),
        ("model.skops", "model.skops must be a skops file, but it cannot be read"),
        ("trees.txt", "trees.txt must be a model of LightGBM in text, but it cannot be read"),
        ("model.ubj", "model.ubj must be a model of XGBoost in JSON or UBJSON, but it cannot be read"),
    ],
)
def test_a_file_that_is_no_model_is_refused(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"tree\nversion=v4\n")
    framework = framework_of(path)
    assert framework is not None
    with pytest.raises(ModelError) as error:
        load_model(path, framework, trust=True)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_an_estimator_of_texts_and_one_without_methods(tmp_path: Path) -> None:
    texts = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good", "bad", "good day"], [1, 0, 1])
    joblib.dump(texts, tmp_path / "texts.pkl")
    joblib.dump({"weights": 1}, tmp_path / "dictionary.pkl")
    model = load_model(tmp_path / "texts.pkl", Framework.SCIKIT_LEARN, trust=True)
    scoring = requests.decode(Request({}, b'{"data": ["a good day", "bad"]}'), model)
    assert model.methods["predict"](scoring.values)["predict"].tolist() == texts.predict(["a good day", "bad"]).tolist()
    with pytest.raises(ModelError, match="must hold an estimator with predict"):
        load_model(tmp_path / "dictionary.pkl", Framework.SCIKIT_LEARN, trust=True)
