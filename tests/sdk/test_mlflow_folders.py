"""MLflow model folders: what MLflow wrote is registered, and what is exported is loaded by MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

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
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


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


SAVE = {
    "skops": """
        import skops.io
        from sklearn.linear_model import LinearRegression
        skops.io.dump(LinearRegression().fit(table, table[:, 0]), path)
    """,
    "lightgbm": """
        import lightgbm
        options = {"verbose": -1, "min_data_in_leaf": 1, "num_threads": 1}
        lightgbm.train(options, lightgbm.Dataset(table, table[:, 0]), 3).save_model(path)
    """,
    "xgboost": """
        import xgboost
        xgboost.train({"nthread": 1, "max_depth": 2}, xgboost.DMatrix(table, table[:, 0]), 3).save_model(path)
    """,
    "keras": """
        import keras
        keras.utils.set_random_seed(0)
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)]).save(path)
    """,
    "tensorflow": """
        import tensorflow as tf
        class Model(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
            def serve(self, x):
                return {"y": tf.nn.softmax(x * 0.5)}
        model = Model()
        tf.saved_model.save(model, path, {"serving_default": model.serve})
    """,
}
"""Programs that save a model, with the libraries of this environment."""
FILES = {"skops": "model.skops", "onnx": "model.onnx", "lightgbm": "model.txt", "xgboost": "model.ubj", "keras": "model.keras"}


def saved(kind: str, table: np.ndarray, folder: Path) -> Path:
    """Save a model that was trained on a table."""
    path = folder / FILES.get(kind, "saved")
    if kind == "onnx":
        save_relu(path)
        return path
    head = f"import numpy as np\ntable, path = np.array({table.tolist()}), {str(path)!r}\n"
    subprocess.run([sys.executable, "-c", head + textwrap.dedent(SAVE[kind])], check=True, capture_output=True, timeout=300)
    return path


def in_mlflow(python: str, program: str, *arguments: object) -> str:
    """Run a program with mlflow and the libraries of this environment; return the last line that it prints."""
    paths = os.pathsep.join(each for each in sys.path if each.endswith("site-packages"))
    environment = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, "-c", program, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["skops", "onnx", "lightgbm", "xgboost", "keras", "tensorflow"])
def test_mlflow_loads_an_exported_model_and_predicts_the_same(
    kind: str, client: CloudClient, mlflow_python: str, tmp_path: Path
) -> None:
    table = np.arange(40, dtype=np.float64).reshape(10, 4) % 7
    sample = tmp_path / ("rows.npz" if kind == "tensorflow" else "rows.json")
    if kind == "tensorflow":
        np.savez(sample, x=table.astype(np.float32))  # its inputs have names, and no other type is accepted
    else:
        sample.write_text(json.dumps(table.tolist()))
    version = client.register_model(f"export-{kind}", saved(kind, table, tmp_path), sample=SampleOptions(sample))
    target = client.export_mlflow(version, tmp_path / "out")
    golden = client.golden_sample(version)
    assert golden is not None
    [expected] = golden[1].values()
    found = json.loads(in_mlflow(mlflow_python, LOAD, target))
    np.testing.assert_allclose(found, expected.reshape(-1), rtol=1e-5)


SAVE_WITH_MLFLOW = """
import json, sys
import numpy as np
kind, path, target = sys.argv[1:]
table = np.arange(40, dtype=np.float32).reshape(10, 4) % 7
if kind == "sklearn":
    import joblib, mlflow.sklearn
    from sklearn.linear_model import LinearRegression
    model = LinearRegression().fit(table, table[:, 0])
    mlflow.sklearn.save_model(model, target, input_example=table, serialization_format="skops")
elif kind == "onnx":
    import mlflow.onnx, onnx
    mlflow.onnx.save_model(onnx.load(path), target, input_example=table)
elif kind == "xgboost":
    import mlflow.xgboost, xgboost
    mlflow.xgboost.save_model(xgboost.Booster(model_file=path), target, input_example=table)
else:
    import lightgbm, mlflow.lightgbm
    mlflow.lightgbm.save_model(lightgbm.Booster(model_file=path), target, input_example=table)
import mlflow.pyfunc
found = mlflow.pyfunc.load_model(target).predict(table)
found = next(iter(found.values())) if isinstance(found, dict) else found
print(json.dumps(np.asarray(found).reshape(-1).tolist()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sklearn", "onnx", "lightgbm", "xgboost"])
def test_a_model_that_mlflow_saved_is_imported_and_gives_what_mlflow_predicts(
    kind: str, client: CloudClient, mlflow_python: str, tmp_path: Path
) -> None:
    table = np.arange(40, dtype=np.float64).reshape(10, 4) % 7
    path = tmp_path if kind == "sklearn" else saved(kind, table, tmp_path)
    predicted = json.loads(in_mlflow(mlflow_python, SAVE_WITH_MLFLOW, kind, path, tmp_path / "mlflow"))
    version = client.import_mlflow(f"import-{kind}", tmp_path / "mlflow")
    assert version.registration is not None
    assert (version.registration.framework, version.registration.framework_version != "") == (Framework(kind), True)
    golden = client.golden_sample(version)
    assert golden is not None
    [given] = golden[0].values()
    [found] = golden[1].values()
    np.testing.assert_allclose(given, table)
    np.testing.assert_allclose(found.reshape(-1), predicted, rtol=1e-5, atol=1e-6)
    back = client.export_mlflow(version, tmp_path / "back")
    assert contents(back) == contents(tmp_path / "mlflow")
