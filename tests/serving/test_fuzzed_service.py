"""No request that is derived from the served document gets a server error or an undeclared answer, for every kind of service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgewright.serving.http.keys import KeyFile
from edgewright.serving.opening import application
from edgewright.serving.served import Served
from tests.support.fuzzing import LONG, Effort, fuzz
from tests.support.serving_fixtures import serving
from tests.support.tiny_variants import make_variant

KEY = "primary-key-0123456789"
SCRIPT = """
import numpy as np, pandas as pd
from edgewright.azureml.inference_schema.schema_decorators import input_schema, output_schema
from edgewright.azureml.inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from edgewright.azureml.inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from edgewright.azureml.inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType

def init():
    pass

@input_schema("data", NumpyParameterType(np.zeros((1, 4), np.float32)))
@input_schema("table", PandasParameterType(pd.DataFrame({"age": [1], "name": ["x"], "share": [0.5]})))
@input_schema("threshold", StandardPythonParameterType(0.5), optional=True)
@output_schema(StandardPythonParameterType({"total": [1.0], "rows": 1}))
def run(data, table, threshold=0.5):
    return {"total": data.sum(axis=1), "rows": len(table)}
"""


def variant(folder: Path) -> Path:
    return make_variant(folder / "fp32", labels=("cat", "dog", "eel")).path


def onnx_model(folder: Path) -> Path:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.eye(4, 2).ravel())
    graph = helper.make_graph([product], "product", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def sklearn_model(folder: Path) -> Path:
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).standard_normal((40, 3))
    fitted = LogisticRegression().fit(pd.DataFrame(rows, columns=["a", "b", "c"]), rows.sum(axis=1) > 0)
    joblib.dump(fitted, folder / "model.joblib")
    return folder / "model.joblib"


def script(folder: Path) -> Path:
    (folder / "score.py").write_text(SCRIPT)
    return folder / "score.py"


KINDS = [variant, onnx_model, sklearn_model, script]
NAMES = ["variant", "ONNX model", "scikit-learn model", "script"]


@pytest.fixture(scope="module", params=KINDS, ids=NAMES)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "keys.json").write_text(json.dumps({"primary": KEY, "secondary": "secondary-key-0123456"}))
    make: Callable[[Path], Path] = request.param
    served = Served(path=make(folder), name="served", threads=1, trust=True)
    with application(served, KeyFile(folder / "keys.json")) as app, serving(app) as client:
        yield f"http://127.0.0.1:{client.port}"


def test_no_request_gets_a_server_error_or_an_undeclared_answer(url: str, clients_python: Path, tmp_path: Path) -> None:
    fuzz(clients_python, url, KEY, Effort(examples=4), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3300)
def test_no_request_of_many_gets_a_server_error_or_an_undeclared_answer(url: str, clients_python: Path, tmp_path: Path) -> None:
    fuzz(clients_python, url, KEY, LONG, tmp_path)
