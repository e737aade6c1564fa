"""MLflow model folders: what MLflow wrote is registered, and what is exported is loaded by MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import lightgbm
import numpy as np
import onnx
import pytest
import skops.io
import yaml
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression

from edgewright.contracts.models.mlflow_folder import read_mlflow
from edgewright.contracts.models.registration import Framework, Registration
from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk import CloudClient
from edgewright.sdk.trying import SampleOptions

WRITTEN_BY_MLFLOW = """\
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_session_options: null
    onnx_version: 1.23.2
    providers:
    - CUDAExecutionProvider
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: 3.11.7
mlflow_version: 3.17.2
model_uuid: acd6f98b8c0d4f75bbbf33917048bb9c
saved_input_example_info:
  artifact_path: input_example.json
  serving_input_path: serving_input_example.json
  type: ndarray
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1,
    4]}}]'
  params: null
utc_time_created: '2026-12-01 00:35:55.289309'
"""
"""By mlflow-skinny 3.17.2, without the fields that are not read."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `mlflow.onnx.save_model` writes it."""
    path = tmp_path / "onnx"
    path.mkdir()
    (path / "MLmodel").write_text(WRITTEN_BY_MLFLOW)
    (path / "input_example.json").write_text("[[1.0, -1.0, 2.0, -2.0]]")
    (path / "conda.yaml").write_text("name: mlflow-env\n")
    save_relu(path / "model.onnx")
    return path


def save_relu(path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_an_mlflow_folder_becomes_a_version_and_comes_back_unchanged(client: CloudClient, folder: Path, tmp_path: Path) -> None:
    version = client.import_mlflow("relu", folder)
    registration = version.registration
    assert registration is not None
    assert (registration.framework, registration.framework_version) == (Framework.ONNX, "1.23.2")
    assert registration.properties["environment"] == "conda.yaml"
    assert [str(spec) for spec in (*registration.inputs, *registration.outputs)] == [
        "input float32[N, 4]",
        "output float32[N, 4]",
    ]
    golden = client.golden_sample(version)
    assert golden is not None
    assert golden[1]["y"].tolist() == [[1.0, 0.0, 2.0, 0.0]]
    back = client.export_mlflow(version, tmp_path / "back")
    assert {each.name: each.read_bytes() for each in back.iterdir()} == {
        each.name: each.read_bytes() for each in folder.iterdir()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def changed(folder: Path, **fields: object) -> None:
    document = yaml.safe_load((folder / "MLmodel").read_text())
    (folder / "MLmodel").write_text(yaml.safe_dump({**document, **fields}))


def test_columns_and_other_flavors_are_read(folder: Path) -> None:
    types = ("boolean", "integer", "long", "float", "double", "string", "datetime")
    columns = [{"type": each, "name": each, "required": True} for each in types]
    changed(folder, signature={"inputs": json.dumps(columns)}, flavors={"spark": {}, "python_function": {}}, run_id="abc")
    found = read_mlflow(folder)
    assert (found.registration.framework, found.model, found.registration.run) == (Framework.CUSTOM, "", "abc")
    dtypes = ["bool", "int32", "int64", "float32", "float64", "object", "object"]
    assert [spec.dtype for spec in found.registration.inputs] == dtypes
    assert {spec.shape for spec in found.registration.inputs} == {("N",)}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(None, "must be an MLflow model folder, but it has no file MLmodel", id="no MLmodel"),
        pytest.param(b"a: [", "MLmodel must be YAML", id="cut YAML"),
        pytest.param(b"\xff\xfe", "MLmodel must be YAML", id="not UTF-8"),
        pytest.param(b"- a", "the document must be a mapping, not list", id="a list"),
        pytest.param(b"a: 1", "flavors must be a mapping, not NoneType", id="no flavors"),
        pytest.param(b"flavors: {onnx: {data: none.onnx}}", "which the folder must hold", id="a missing file"),
        pytest.param(b"flavors: {onnx: {data: ../x}}", "must stay below its folder", id="a path that leaves"),
        pytest.param(b"flavors: {}\nsignature: {inputs: 'x'}", "the signature must be a list", id="no JSON"),
        pytest.param(b"flavors: {}\nsignature: {inputs: '[{}]'}", "the signature must be a list", id="no type"),
        pytest.param(b"flavors: !!python/object:os.system {}", "MLmodel must be YAML", id="an object of Python"),
        pytest.param(b"#" * ((1 << 20) + 1), "must have at most 1048576 bytes", id="too large"),
    ],
)
def test_a_damaged_folder_is_one_line(content: bytes | None, line: str, folder: Path) -> None:
    (folder / "MLmodel").unlink()
    if content is not None:
        (folder / "MLmodel").write_bytes(content)
    with pytest.raises(BadInputError, match=line) as refused:
        read_mlflow(folder)
    assert "\n" not in str(refused.value)


def test_what_mlflow_cannot_load_is_not_exported(client: CloudClient, folder: Path, tmp_path: Path) -> None:
    version = client.register_model("custom", folder / "conda.yaml")
    with pytest.raises(BadInputError, match="must have a flavor that loads the model, but for the framework custom it has none"):
        client.export_mlflow(version, tmp_path / "out")
    (folder / "MLmodel").unlink()
    version = client.register_model("custom", folder, Registration(framework=Framework.ONNX))
    with pytest.raises(BadInputError, match="custom:2 must be one model file to be exported, but it has 3 files"):
        client.export_mlflow(version, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotFoundError):
        client.import_mlflow("custom", folder)


LOAD = """
import json, sys, mlflow.pyfunc, mlflow.models, numpy as np
from mlflow.models.utils import _read_example
model = mlflow.pyfunc.load_model(sys.argv[1])
example = _read_example(model.metadata, sys.argv[1])
found = model.predict(example)
found = next(iter(found.values())) if isinstance(found, dict) else found
print(json.dumps(np.asarray(found).reshape(-1).tolist()))
"""


@pytest.fixture(scope="module")
def mlflow_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with mlflow-skinny, in an environment of its own; EDGEWRIGHT_TEST_MLFLOW names an existing one."""
    if "EDGEWRIGHT_TEST_MLFLOW" in os.environ:
        return os.environ["EDGEWRIGHT_TEST_MLFLOW"]
    path = tmp_path_factory.mktemp("mlflow")
    venv.create(path, with_pip=True)
    python = str(path / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "mlflow-skinny==3.17.2"], check=True)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["skops", "onnx", "lightgbm"])
def test_mlflow_loads_an_exported_model_and_predicts_the_same(
    kind: str, client: CloudClient, mlflow_python: str, tmp_path: Path
) -> None:
    table = np.arange(40, dtype=np.float64).reshape(10, 4) % 7
    sample = tmp_path / "rows.json"
    sample.write_text(json.dumps(table.tolist()))
    if kind == "skops":
        model = tmp_path / "model.skops"
        skops.io.dump(LinearRegression().fit(table, table[:, 0]), model)
    elif kind == "onnx":
        model = tmp_path / "model.onnx"
        save_relu(model)
    else:
        model = tmp_path / "model.txt"
        options = {"verbose": -1, "min_data_in_leaf": 1, "num_threads": 1}
        lightgbm.train(options, lightgbm.Dataset(table, table[:, 0]), 3).save_model(model)
    version = client.register_model(f"export-{kind}", model, sample=SampleOptions(sample))
    target = client.export_mlflow(version, tmp_path / "out")
    paths = os.pathsep.join(each for each in sys.path if each.endswith("site-packages"))
    process = subprocess.run(
        [mlflow_python, "-c", LOAD, str(target)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert process.returncode == 0, process.stderr
    golden = client.golden_sample(version)
    assert golden is not None
    [expected] = golden[1].values()
    np.testing.assert_allclose(json.loads(process.stdout.splitlines()[-1]), expected.reshape(-1), rtol=1e-5)
