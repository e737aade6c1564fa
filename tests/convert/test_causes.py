"""A refusal names the cause, the versions and what to do, on one line."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import sklearn
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from convert.conversion import ConvertOptions, convert_model
from convert.from_keras.reader import load_keras
from convert.from_onnx import read_onnx
from convert.from_sklearn.files import load_estimator
from edgewright.errors import ModelError, cause_of
from tests.support.convert_networks import keras, saved


def relu(path: Path, *, sets: dict[str, int] | None = None, ir_version: int = 8, shape: tuple[int | str, ...] = ("N", 4)) -> Path:
    """Write an ONNX file that no checker has seen."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    imports = [helper.make_opsetid(domain, version) for domain, version in ({"": 17} | (sets or {})).items()]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("sets", "ir_version", "found"),
    [
        pytest.param({"": 99}, 8, f"operator set 99 of ai.onnx, but onnx {onnx.__version__} supports", id="operator set"),
        pytest.param({"ai.onnx.ml": 77}, 8, "operator set 77 of ai.onnx.ml", id="operator set for classical models"),
        pytest.param({}, 99, f"format 99, but onnx {onnx.__version__} supports", id="format"),
    ],
)
def test_a_graph_of_the_future_is_refused_with_both_versions(
    sets: dict[str, int], ir_version: int, found: str, tmp_path: Path
) -> None:
    path = relu(tmp_path / "m.onnx", sets=sets, ir_version=ir_version)
    with pytest.raises(ModelError) as caught:
        read_onnx(path)
    assert str(caught.value).startswith(f"{path} uses {found}")
    assert "export it with opset 21" in str(caught.value)


@pytest.mark.parametrize("shape", [("N", 0), (0, 4)])
def test_an_axis_without_entries_is_refused(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^every axis must have 1 or more entries, but axis \d of x float32\[.*\] has none$"):
        convert_model(relu(tmp_path / "m.onnx", shape=shape), tmp_path / "build", ConvertOptions())


def test_the_cause_of_a_keras_error_is_kept(tmp_path: Path) -> None:
    layers = keras().layers
    given = keras().Input((8, 3))
    path = saved(keras().Model(given, layers.Conv1D(4, 3, activation="relu")(given)), tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b'"relu"', b'"<lambda>"')
    assert json.loads(members["config.json"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError) as caught:
        load_keras(path)
    assert str(caught.value) == (
        f"{path}: Keras cannot load this model: Could not interpret activation function identifier: <lambda>"
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        pytest.param("plain", "plain", id="one line"),
        pytest.param("Error when deserializing class 'A' using config={}.\n\nException encountered: no B", "no B", id="loading"),
        pytest.param(
            "Exception encountered when calling A.call().\n\n\x1b[1mtoo short\x1b[0m\n\nArguments received by A.call():\n  • x=1",
            "too short",
            id="calling",
        ),
        pytest.param(
            "2 objects could not be loaded. Example for A:\n\nLayer 'a' has 0 variables",
            "2 objects could not be loaded. Example for A: Layer 'a' has 0 variables",
            id="several lines",
        ),
        pytest.param("", "ValueError", id="no text"),
    ],
)
def test_the_cause_is_found_in_errors_of_frameworks(text: str, cause: str) -> None:
    assert cause_of(ValueError(text)) == cause


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_an_older_library_names_both_versions(protocol: int, tmp_path: Path) -> None:
    raw = pickle.dumps(LogisticRegression().fit(np.eye(4), [0, 1, 0, 1]), protocol=protocol)
    older = raw.replace(sklearn.__version__.encode(), b"0.2.3"[: len(sklearn.__version__)])
    (tmp_path / "m.pkl").write_bytes(older.replace(b"_logistic", b"_logistis"))
    with pytest.raises(ModelError) as caught:
        load_estimator(tmp_path / "m.pkl", pickled=True, trust=True)
    assert "No module named 'sklearn.linear_model._logistis'" in str(caught.value)
    assert str(caught.value).endswith(
        f"; it was written with scikit-learn 0.2.3, but {sklearn.__version__} is installed: install scikit-learn==0.2.3, "
        "or train the model again"
    )


def test_a_pickle_of_a_missing_library_names_it(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"\x80\x03cnosuchlibrary.trees\nModel\nq\x00.")
    with pytest.raises(ModelError, match=r"No module named 'nosuchlibrary'; install nosuchlibrary, which the model needs$"):
        load_estimator(tmp_path / "m.pkl", pickled=True, trust=True)
