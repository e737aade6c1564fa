"""A model is run once on its sample, as its own framework runs it; a model or a sample that does not fit is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pytest
import skops.io
import xgboost
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from convert.frameworks import import_keras, import_tensorflow
from edgewright import try_model
from edgewright.contracts import wire
from edgewright.contracts.models.sample_input import SampleInput, TriedModel, TryRequest, read_sample_input
from edgewright.contracts.samples import read_npz, write_npz
from edgewright.errors import BadInputError

TABLE = np.arange(40, dtype=np.float64).reshape(10, 4) % 7
CLASSES = np.array(["no", "yes"])[(TABLE[:, 1] > 2).astype(int)]

Array = npt.NDArray[Any]
Expected = dict[str, Array]


def tried(model: Path, sample: SampleInput, folder: Path, *, trust: bool = False) -> tuple[TriedModel, Expected]:
    """Run a model as the worker does; return the answer and the outputs."""
    inputs, outputs = folder / "inputs.npz", folder / "outputs.npz"
    write_npz(inputs, sample.arrays)
    names, is_table = tuple(sample.arrays), sample.is_table
    request = TryRequest(model=str(model), inputs=str(inputs), outputs=str(outputs), names=names, is_table=is_table, trust=trust)
    answer = wire.decode(try_model.handle(wire.encode(request)), TriedModel, what="answer")
    return answer, read_npz(outputs)


def make_sklearn(path: Path) -> Expected:
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(TABLE, CLASSES)
    skops.io.dump(tree, path / "model.skops")
    return {"output": tree.predict(TABLE)}


def make_pickle(path: Path) -> Expected:
    line = LinearRegression().fit(TABLE[:, :3], TABLE[:, 3])
    (path / "notes.md").write_text("a file beside the model")
    joblib.dump(line, path / "model.pkl")
    return {"output": line.predict(TABLE[:, :3])}


def make_onnx(path: Path) -> Expected:
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("left", "right")]
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Sub", ["left", "right"], ["total"])], "g", sides, [total])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path / "model.onnx")
    return {"total": (TABLE - 1).astype(np.float32)}


def make_lightgbm(path: Path) -> Expected:
    data = lightgbm.Dataset(TABLE[:, :3], TABLE[:, 3])
    booster = lightgbm.train({"verbose": -1, "min_data_in_leaf": 1, "num_threads": 1}, data, 3)
    booster.save_model(path / "model.txt")
    return {"output": np.asarray(booster.predict(TABLE[:, :3]), np.float32)[:, None]}


def make_xgboost(path: Path) -> Expected:
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(TABLE[:, :3], TABLE[:, 3]), 3)
    booster.save_model(path / "model.ubj")
    return {"output": booster.predict(xgboost.DMatrix(TABLE[:, :3]))[:, None]}


def make_keras(path: Path) -> Expected:
    keras = import_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.save(path / "model.keras")
    return {"output": model.predict(TABLE.astype(np.float32), verbose=0)}


def make_saved_model(path: Path) -> Expected:
    tf = import_tensorflow()
    module = tf.Module()
    module.weight = tf.Variable([[1.0], [2.0], [3.0], [4.0]])
    signature = tf.TensorSpec([None, 4], tf.float32, name="x")
    module.score = tf.function(lambda x: {"score": x @ module.weight}, input_signature=[signature])
    tf.saved_model.save(module, str(path), signatures=module.score)
    return {"score": (TABLE @ [[1.0], [2.0], [3.0], [4.0]]).astype(np.float32)}


@pytest.mark.filterwarnings("ignore")  # of the frameworks
@pytest.mark.parametrize(
    ("make", "framework", "sample"),
    [
        pytest.param(make_sklearn, "sklearn", {"input": TABLE}, id="scikit-learn, skops"),
        pytest.param(make_pickle, "sklearn", {"input": TABLE[:, :3]}, id="scikit-learn, pickle beside another file"),
        pytest.param(make_onnx, "onnx", {"right": np.ones((10, 4)), "left": TABLE}, id="ONNX, inputs by name"),
        pytest.param(make_lightgbm, "lightgbm", {"input": TABLE[:, :3]}, id="LightGBM"),
        pytest.param(make_xgboost, "xgboost", {"input": TABLE[:, :3]}, id="XGBoost"),
        pytest.param(make_keras, "keras", {"input": TABLE}, id="Keras"),
        pytest.param(make_saved_model, "tensorflow", {"anything": TABLE}, id="SavedModel"),
    ],
)
def test_a_model_gives_the_outputs_of_its_own_framework(
    make: Callable[[Path], Expected], framework: str, sample: Expected, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    expected = make(model)
    answer, outputs = tried(model, SampleInput(sample), tmp_path, trust=True)
    assert answer.framework == framework
    assert answer.framework_version
    assert {spec.name: spec.shape for spec in answer.inputs} == {name: ("N", *each.shape[1:]) for name, each in sample.items()}
    assert {spec.name: spec.shape for spec in answer.outputs} == {name: ("N", *each.shape[1:]) for name, each in expected.items()}
    assert {name: array.astype(str).tolist() for name, array in outputs.items() if array.dtype.kind == "U"} == {
        name: array.tolist() for name, array in expected.items() if array.dtype.kind == "U"
    }
    numbers = {name: array for name, array in expected.items() if array.dtype.kind == "f"}
    np.testing.assert_allclose([outputs[name] for name in numbers], list(numbers.values()), rtol=1e-5)


def test_columns_of_a_table_are_put_into_the_order_of_the_training(tmp_path: Path) -> None:
    table = pd.DataFrame({"age": [30, 40, 50], "city": ["Bern", "Rome", "Rome"], "sum": [1.5, 2.5, 3.5]})
    encode = ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough")
    pipeline = make_pipeline(encode, LinearRegression()).fit(table, [1.0, 2.0, 4.0])
    joblib.dump(pipeline, tmp_path / "model.pkl")
    table[["sum", "city", "age"]].to_csv(tmp_path / "rows.csv", index=False)
    sample = read_sample_input(tmp_path / "rows.csv")
    answer, outputs = tried(tmp_path / "model.pkl", sample, tmp_path, trust=True)
    assert [str(spec) for spec in answer.inputs] == ["sum float64[N]", "city object[N]", "age int64[N]"]
    np.testing.assert_allclose(outputs["output"], [1.0, 2.0, 4.0], rtol=1e-6)


def test_columns_without_names_in_the_training_keep_the_order_of_the_file(tmp_path: Path) -> None:
    joblib.dump(LinearRegression(fit_intercept=False).fit(np.eye(2), [1.0, 10.0]), tmp_path / "model.pkl")
    (tmp_path / "rows.csv").write_text("z,a\n1,2\n")
    _, outputs = tried(tmp_path / "model.pkl", read_sample_input(tmp_path / "rows.csv"), tmp_path, trust=True)
    np.testing.assert_allclose(outputs["output"], [21.0])


@pytest.mark.parametrize(
    ("make", "sample", "line"),
    [
        pytest.param(
            make_onnx, {"left": TABLE}, "a sample must have the model's inputs left float32.*, but it has left", id="input"
        ),
        pytest.param(make_onnx, {"left": TABLE[:, :3], "right": TABLE}, "input left must have shape", id="shape"),
        pytest.param(make_onnx, {"left": TABLE.astype(str), "right": TABLE}, "input left must be float32", id="dtype"),
        pytest.param(make_sklearn, {"input": TABLE[:, :3]}, "must score its sample input, but it failed: X has 3", id="width"),
        pytest.param(make_pickle, {"input": TABLE[:, :3]}, "--trust", id="pickle without trust"),
    ],
)
def test_a_sample_that_does_not_fit_is_one_line(
    make: Callable[[Path], Expected], sample: Expected, line: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    make(model)
    with pytest.raises(BadInputError, match=line) as refused:
        tried(model, SampleInput(sample), tmp_path)
    assert "\n" not in str(refused.value)


def test_a_folder_must_hold_one_model(tmp_path: Path) -> None:
    make_sklearn(tmp_path)
    (tmp_path / "second.skops").write_bytes((tmp_path / "model.skops").read_bytes())
    with pytest.raises(BadInputError, match="must hold one model to run with a sample, but it holds model.skops, second.skops"):
        tried(tmp_path, SampleInput({"input": TABLE}), tmp_path)
    (tmp_path / "second.skops").write_text(json.dumps({}))
    assert try_model.find_model(tmp_path).name == "model.skops"
