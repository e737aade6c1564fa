"""`edgewright export`: the files of every consumer score as NumPy does, and what a consumer cannot run is refused in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from edgewright.cli import main
from edgewright.export.consumers import Exported, ExportOptions, export_model
from edgewright.export.model import read_model
from edgewright.export.runtimes import Consumer, oldest_for, release
from tests.commands.test_serve_command import ask, served

WEIGHTS = (np.arange(12, dtype=np.float32).reshape(4, 3) - 5) / 8
ROWS = np.array([[1, 2, 3, 4], [0.5, -1, 0.25, 2], [0, 0, 0, 0]], np.float32)
DEFAULTS = ExportOptions()
STUBS = {
    "OrtEnvironment": "public static OrtEnvironment getEnvironment() { return null; }"
    " public OrtSession createSession(String path) throws OrtException { return null; }",
    "OrtException": "",
    "OnnxValue": "",
    "OnnxTensor": "public static OnnxTensor createTensor(OrtEnvironment e, java.nio.FloatBuffer b, long[] shape)"
    " throws OrtException { return null; } public java.nio.FloatBuffer getFloatBuffer() { return null; } public void close() {}",
    "OrtSession": "public Result run(java.util.Map<String, ? extends OnnxTensor> inputs) throws OrtException { return null; }"
    " public void close() throws OrtException {} public static class Result implements AutoCloseable"
    " { public java.util.Optional<OnnxValue> get(String name) { return null; } public void close() {} }",
}
"""The part of the Java interface of onnxruntime that the sample uses."""
EXTENDS = {"OrtException": "extends Exception", "OnnxTensor": "extends OnnxValue implements AutoCloseable"}


def probabilities(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return what the model computes, by NumPy alone."""
    logits = rows @ WEIGHTS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def graph(
    *nodes: onnx.NodeProto,
    opset: int = 21,
    shape: tuple[int | str, ...] = ("N", 4),
    element: int = TensorProto.FLOAT,
    output: onnx.ValueInfoProto | None = None,
) -> onnx.ModelProto:
    """Return a graph from `features` to `scores`."""
    chosen = nodes or (
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    )
    inputs = [helper.make_tensor_value_info("features", element, shape)]
    outputs = [output or helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], 3])]
    body = helper.make_graph(chosen, "graph", inputs, outputs, [numpy_helper.from_array(WEIGHTS, "weights")])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(body, opset_imports=imports, ir_version=10)


def exported(
    tmp_path: Path, consumer: Consumer, options: ExportOptions = DEFAULTS, model: onnx.ModelProto | None = None
) -> Exported:
    """Write a model and the files of a consumer."""
    onnx.save(model or graph(), tmp_path / "iris.onnx")
    return export_model(read_model(tmp_path / "iris.onnx"), consumer, tmp_path / consumer.value, options)


@pytest.mark.parametrize("consumer", Consumer)
def test_the_texts_golden(tmp_path: Path, consumer: Consumer, golden: Callable[[str, str], None]) -> None:
    result = exported(tmp_path, consumer)
    texts = [f"==> {name} <==\n{Path(result.folder, name).read_text()}" for name in result.files if name != "model.onnx"]
    golden(f"export_{consumer}.txt", re.sub(r"[0-9a-f]{200,}", "(the model)", "\n".join(texts)))


def test_duckdb_scores_vectors_of_rows_and_null_gives_null(tmp_path: Path, clients_python: Path) -> None:
    folder = Path(exported(tmp_path, Consumer.DUCKDB).folder)
    script = (
        "import duckdb, json, predict_duckdb, sys\n"
        "connection = duckdb.connect()\n"
        "connection.execute('SET enable_progress_bar = false')\n"
        "predict_duckdb.register(connection)\n"
        "connection.execute('CREATE TABLE samples (id INTEGER, features FLOAT[])')\n"
        "connection.executemany('INSERT INTO samples VALUES (?, ?)', json.loads(sys.argv[1]))\n"
        "rows = connection.sql('SELECT predict(features) FROM samples ORDER BY id').fetchall()\n"
        "print(json.dumps([row[0] for row in rows]))\n"
    )
    rows = [[number, features] for number, features in enumerate([*ROWS.tolist(), None])]
    *scores, missing = json.loads(output_of(clients_python, "-c", script, json.dumps(rows), folder=folder))
    np.testing.assert_allclose(scores, probabilities(ROWS), rtol=1e-6)
    assert missing is None


def test_duckdb_passes_a_list_and_a_number_to_a_model_with_two_inputs(tmp_path: Path, clients_python: Path) -> None:
    scaled = graph(helper.make_node("Mul", ["features", "factor"], ["scores"]), shape=("N", 3))
    scaled.graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, ["N", 1]))
    folder = Path(exported(tmp_path, Consumer.DUCKDB, model=scaled).folder)
    script = (
        "import duckdb, json, predict_duckdb\n"
        "connection = duckdb.connect()\n"
        "connection.execute('SET enable_progress_bar = false')\n"
        "predict_duckdb.register(connection, 'scale')\n"
        "rows = connection.sql('SELECT scale([1, -2, 3]::FLOAT[], i::FLOAT) FROM range(3) samples(i)').fetchall()\n"
        "print(json.dumps([row[0] for row in rows]))\n"
    )
    assert json.loads(output_of(clients_python, "-c", script, folder=folder)) == [[0, 0, 0], [1, -2, 3], [2, -4, 6]]


def test_spark_scores_arrow_batches_with_a_fixed_batch_of_two(tmp_path: Path, clients_python: Path) -> None:
    folder = Path(exported(tmp_path, Consumer.SPARK, model=graph(shape=(2, 4))).folder)
    script = (
        "import json, pyarrow, score_spark, sys\n"
        "batch = pyarrow.RecordBatch.from_pydict({'id': [7, 8, 9], 'features': json.loads(sys.argv[1])})\n"
        "(scored,) = score_spark.scored([batch], score_spark.COLUMNS, 'prediction')\n"
        "assert scored.schema.names == ['id', 'features', 'prediction']\n"
        "print(json.dumps(scored.column('prediction').to_pylist()))\n"
    )
    scores = json.loads(output_of(clients_python, "-c", script, json.dumps(ROWS.tolist()), folder=folder))
    np.testing.assert_allclose(scores, probabilities(ROWS), rtol=1e-6)


def test_the_script_of_the_data_explorer_function_scores_a_data_frame(tmp_path: Path) -> None:
    folder = Path(exported(tmp_path, Consumer.KUSTO).folder)
    query = (folder / "iris.kql").read_text()
    (code,) = re.findall(r"```(.*?)```", query, flags=re.DOTALL)
    (model,) = re.findall(r"model='([0-9a-f]+)'", query)
    frame = pandas.DataFrame(ROWS, columns=["a", "b", "c", "d"])
    names: dict[str, Any] = {"np": np, "pd": pandas, "df": frame, "kargs": {"model": model, "features": list("abcd")}}
    exec(code, names)
    np.testing.assert_allclose(names["result"][["scores_0", "scores_1", "scores_2"]], probabilities(ROWS), rtol=1e-6)
    stored = onnx.load_from_string(bytes.fromhex(model))
    assert stored.opset_import[0].version == 20, "image 3.11.7 has onnxruntime 1.17"
    assert stored.ir_version == 9


def test_a_model_too_large_for_a_table_is_an_external_artifact(tmp_path: Path) -> None:
    large = graph()
    large.graph.initializer.append(numpy_helper.from_array(np.zeros(150_000, np.float32), "unused"))
    onnx.save(large, tmp_path / "iris.onnx")
    url = "https://models.blob.core.windows.net/public/model.onnx"
    result = export_model(read_model(tmp_path / "iris.onnx"), Consumer.KUSTO, tmp_path / "files", ExportOptions(artifact_url=url))
    query = Path(result.folder, "iris.kql").read_text()
    assert result.files == ("iris.kql", "model.onnx")
    assert f"external_artifacts = bag_pack('model.onnx', '{url}')" in query
    assert r"models\\.blob\\.core\\.windows\\.net/public/model\\.onnx" in query


def test_power_bi_reads_the_form_from_the_swagger_document_and_gets_results(tmp_path: Path) -> None:
    folder = Path(exported(tmp_path, Consumer.POWERBI).folder)
    records = [dict(zip([f"features_{n}" for n in range(4)], row, strict=True)) for row in ROWS.tolist()]
    with served(folder / "score.py") as url:
        _, swagger = ask(f"{url}/swagger.json")
        body = json.dumps({"Inputs": {"data": records}, "GlobalParameters": 1.0}).encode()
        status, answer = ask(f"{url}/score", body)
    assert {"Inputs", "GlobalParameters"} <= set(json.dumps(swagger).replace('"', " ").split())
    assert status == 200
    np.testing.assert_allclose(answer["Results"], probabilities(ROWS), rtol=1e-6)


def test_the_java_sample_compiles_and_scores_over_rest(tmp_path: Path, require: Callable[[str], Path]) -> None:
    javac, java = require("javac"), require("java")
    folder = Path(exported(tmp_path, Consumer.JAVA).folder)
    stubs = tmp_path / "ai" / "onnxruntime"
    stubs.mkdir(parents=True)
    for name, body in STUBS.items():
        text = f"package ai.onnxruntime; public class {name} {EXTENDS.get(name, '')} {{ {body} }}"
        (stubs / f"{name}.java").write_text(text)
    sources = [*stubs.glob("*.java"), *folder.glob("*.java")]
    subprocess.run([javac, "-d", tmp_path / "classes", *sources], check=True, timeout=120)
    with served(folder / "model.onnx", "--name", "iris") as url:
        answer = json.loads(output_of(java, "-cp", str(tmp_path / "classes"), "ScoreRest", url))
    (output,) = answer["outputs"]
    np.testing.assert_allclose(output["data"], probabilities(np.zeros((1, 4)))[0], rtol=1e-6)


def output_of(*command: object, folder: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, cwd=folder, timeout=120)
    return done.stdout


GELU = helper.make_node("Gelu", ["features"], ["scores"])
SEQUENCE = helper.make_tensor_sequence_value_info("scores", TensorProto.FLOAT, None)


@pytest.mark.parametrize(
    ("model", "consumer", "options", "message"),
    [
        pytest.param(
            graph(GELU),
            Consumer.KUSTO,
            ExportOptions(image="3.10.8"),
            "image 3.10.8 of Data Explorer has onnxruntime 1.13, which knows operator set 17, ai.onnx.ml 3 and IR version 8, but "
            "iris (operator set 21) has the operator Gelu, which it lacks: use a newer runtime there, or another variant",
            id="an operator of a newer set",
        ),
        pytest.param(
            graph(helper.make_node("FusedMatMul", ["features", "weights"], ["scores"], domain="com.microsoft")),
            Consumer.SPARK,
            ExportOptions(runtime="1.17.3"),
            "spark has onnxruntime 1.17, which knows operator set 20, ai.onnx.ml 4 and IR version 9, but iris (operator set 21) "
            "has the operator com.microsoft.FusedMatMul: use a newer runtime there, or another variant",
            id="an operator of a release of onnxruntime",
        ),
        pytest.param(
            graph(shape=("N", "time", 4)),
            Consumer.DUCKDB,
            DEFAULTS,
            "features must have samples of one size, but its shape is [N, time, 4]: fix it with 'edgewright convert --shape'",
            id="samples of several sizes",
        ),
        pytest.param(
            graph(output=SEQUENCE),
            Consumer.DUCKDB,
            DEFAULTS,
            "scores must be a tensor, but is a sequence_type: 'edgewright convert' makes tensors of such outputs",
            id="a sequence",
        ),
        pytest.param(
            graph(element=TensorProto.STRING),
            Consumer.DUCKDB,
            DEFAULTS,
            "features must hold numbers, but holds object: export a model that takes numbers, or choose an output with --output",
            id="text",
        ),
        pytest.param(
            graph(element=TensorProto.INT8),
            Consumer.JAVA,
            DEFAULTS,
            "samples for Java and C# must have one of the types float32, float64, int32, int64, but features is int8: export the "
            "float32 variant",
            id="a type that Java has no buffer for",
        ),
        pytest.param(
            graph(shape=("N", 50, 50)),
            Consumer.POWERBI,
            DEFAULTS,
            "a table has one column per number, up to 1000, but features has 2500 per row: use spark, duckdb, csharp or java",
            id="more numbers than columns",
        ),
        pytest.param(
            graph(),
            Consumer.DUCKDB,
            ExportOptions(runtime="new"),
            "a release of onnxruntime must be MAJOR.MINOR or MAJOR.MINOR.PATCH, as in 1.17.3, not 'new'",
            id="no release",
        ),
    ],
)
def test_what_a_consumer_cannot_run_is_one_line(
    tmp_path: Path, model: onnx.ModelProto, consumer: Consumer, options: ExportOptions, message: str
) -> None:
    onnx.save(model, tmp_path / "iris.onnx")
    words = [consumer.value, tmp_path / "iris.onnx", "-o", tmp_path / "files", "--image", options.image]
    words += ["--onnxruntime", options.runtime] if options.runtime else []
    result = CliRunner().invoke(main, ["export", *map(str, words)])
    assert result.exit_code == 2
    assert result.output == f"edgewright: {message}\n"
    assert not (tmp_path / "files").exists()


def test_an_operator_whose_meaning_changed_is_not_lowered(tmp_path: Path) -> None:
    norm = graph(
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array([1, 2, 3, 4], np.float32))),
        helper.make_node("GroupNormalization", ["features", "two", "two"], ["scores"], num_groups=2),
        shape=("N", 4, 3),
        output=helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4, 3]),
    )
    with pytest.raises(Exception, match="but iris .operator set 21. has other outputs in the older operator set: use a newer"):
        exported(tmp_path, Consumer.KUSTO, model=norm)


def test_the_oldest_release_that_runs_a_graph_is_named() -> None:
    assert [str(oldest_for(opset, 0, 8)).split(",")[0] for opset in (13, 18, 20, 21)] == [
        "onnxruntime 1.13",
        "onnxruntime 1.14",
        "onnxruntime 1.17",
        "onnxruntime 1.18",
    ]
    assert oldest_for(22, 0, 10) is None
    assert release("1.17.3").opset == 20


def test_the_command_needs_no_runtime_of_the_consumer(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "iris.onnx")
    command = [sys.executable, "-m", "edgewright", "export", "csharp", "iris.onnx", "--json"]
    shown = json.loads(output_of(*command, folder=tmp_path))
    assert shown["files"] == ["Score.cs", "Score.csproj", "model.onnx"]
    assert (tmp_path / "iris-csharp" / "model.onnx").stat().st_size > 0
