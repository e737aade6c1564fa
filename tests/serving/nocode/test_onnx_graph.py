"""ONNX files as other tools write them: maps of probabilities, and graphs whose samples influence one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sklearn.datasets
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from edgewright.errors import ModelError
from edgewright.serving.nocode.onnx_graph import open_graph
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import serving

IRIS, KINDS = sklearn.datasets.load_iris(return_X_y=True)


def write(path: Path, operator: str, shape: list[int | str], **attributes: Any) -> Path:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    graph = helper.make_graph([node], "one", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_the_maps_of_a_scikit_learn_classifier_are_arrays(tmp_path: Path) -> None:
    estimator = LogisticRegression(max_iter=1000).fit(IRIS, KINDS)
    path = tmp_path / "iris.onnx"
    path.write_bytes(to_onnx(estimator, IRIS[:1].astype(np.float32)).SerializeToString())
    session, config = open_graph(path)
    with serving(ScoringApp(session, config, model="iris", version=1)) as client:
        result = client.post("/score", {"data": IRIS[::30].tolist()}).json["result"]
        described = client.get("/v2/models/iris").json["outputs"]
    assert result["output_label"] == estimator.predict(IRIS[::30]).tolist()
    np.testing.assert_allclose(result["output_probability"], estimator.predict_proba(IRIS[::30]), rtol=1e-3, atol=1e-6)
    assert [output["datatype"] for output in described] == ["INT64", "FP32"]


@pytest.mark.parametrize(
    ("operator", "shape", "attributes", "independent"),
    [
        pytest.param("Relu", ["N", 3], {}, True, id="each element alone"),
        pytest.param("Softmax", ["N", 3], {"axis": 1}, True, id="along the features"),
        pytest.param("Softmax", ["N", 3], {"axis": 0}, False, id="along the samples"),
        pytest.param("Relu", ["N", "length"], {}, False, id="not probed: a dynamic axis"),
        pytest.param("Relu", [1, 3], {}, False, id="not probed: a fixed batch"),
    ],
)
def test_requests_share_a_run_only_if_samples_are_independent(
    operator: str, shape: list[int | str], attributes: dict[str, int], independent: bool, tmp_path: Path
) -> None:
    session, config = open_graph(write(tmp_path / "graph.onnx", operator, shape, **attributes))
    assert config.independent_samples is independent
    assert session.run({"x": np.ones((1, 3), np.float32)})["y"].shape == (1, 3)


def test_an_output_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "one", [value], [sequence])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "g.onnx")
    with pytest.raises(ModelError, match="y must be a tensor of a plain number type, not seq"):
        open_graph(tmp_path / "g.onnx")
