"""TensorFlow Lite files of every kind through `edgewright convert`, and files that are refused."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from convert.conversion import ConvertOptions, convert_model
from convert.from_tflite.file import _schema, parse
from convert.from_tflite.interpreter import tflite_outputs
from convert.from_tflite.reader import FLOAT_TOLERANCE, HYBRID_TOLERANCE, QUANTIZED_TOLERANCE, read_tflite
from convert.source.identify import SourceKind, identify
from edgewright.cli import main
from edgewright.contracts.variant import LayerKind
from edgewright.errors import BadInputError, ModelError
from tests.support.convert_networks import noise, relative_difference
from tests.support.tflite_files import outputs_of, tensorflow, tflite, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own warnings
SHAPE = (8, 8, 3)


def network(x: Any) -> Any:
    """Compute a small residual network with 5 classes."""
    nn, tf = tensorflow().nn, tensorflow()
    x = nn.relu(nn.conv2d(x, weights(3, 3, 3, 8), 2, "SAME") + weights(8))
    x = nn.relu(nn.depthwise_conv2d(x, weights(3, 3, 8, 1), [1, 1, 1, 1], "SAME") + x)
    x = tf.reshape(nn.avg_pool2d(x, 2, 2, "VALID"), (-1, 32))
    x = nn.relu(tf.matmul(x, weights(32, 64) * 0.1) + weights(64))  # above 1024 weights, dynamic range stores integers
    return nn.softmax(tf.matmul(x, weights(64, 5) * 0.1) + weights(5))


def written(folder: Path, mode: str = "float", batch: int | None = None) -> Path:
    path = folder / "network.tflite"
    path.write_bytes(tflite(network, SHAPE, mode, batch=batch))
    return path


@pytest.mark.parametrize(
    ("mode", "tolerance", "largest"),
    [
        pytest.param("float", FLOAT_TOLERANCE, 1e-5, id="float"),
        pytest.param("float16", FLOAT_TOLERANCE, 1e-5, id="weights in float16"),
        pytest.param("dynamic range", HYBRID_TOLERANCE, 0.05, id="weights in int8"),
        pytest.param("int8", QUANTIZED_TOLERANCE, 0.05, id="int8 with float ends"),
        pytest.param("int8 ends", QUANTIZED_TOLERANCE, 0.05, id="int8"),
        pytest.param("uint8 ends", QUANTIZED_TOLERANCE, 0.05, id="int8 with unsigned ends"),
        pytest.param("int16", QUANTIZED_TOLERANCE, 0.01, id="int16 with weights in int8"),
    ],
)
def test_a_network_of_every_kind_keeps_its_labels(tmp_path: Path, mode: str, tolerance: float, largest: float) -> None:
    path = written(tmp_path, mode)
    (graph,), (interpreter,) = outputs_of(path.read_bytes(), noise(16, *SHAPE, seed=1))
    assert graph.argmax(-1).tolist() == interpreter.argmax(-1).tolist()
    assert relative_difference(graph, interpreter) < largest
    assert read_tflite(path).tolerance == tolerance


def test_a_fixed_batch_stays_fixed(tmp_path: Path) -> None:
    path, samples = written(tmp_path, batch=2), noise(2, *SHAPE)
    (graph,), (interpreter,) = outputs_of(path.read_bytes(), samples)
    assert read_tflite(path).model.graph.inputs[0].shape == (2, *SHAPE)
    assert relative_difference(graph, interpreter) < 1e-5
    (last,) = tflite_outputs(path, [np.concatenate([samples, samples[:1]])])
    assert relative_difference(last[2:], interpreter[:1]) < 1e-6


def test_integers_stay_integers_between_the_layers(tmp_path: Path) -> None:
    operators = [node.op_type for node in read_tflite(written(tmp_path, "int8 ends")).model.graph]
    assert operators.count("QuantizeLinear") >= 6
    assert "QuantizeLinear" not in [node.op_type for node in read_tflite(written(tmp_path, "dynamic range")).model.graph]


def test_a_quantized_file_becomes_a_build_with_samples_from_its_range(tmp_path: Path) -> None:
    low, high = read_tflite(written(tmp_path, "int8 ends")).ranges["image"]
    build = convert_model(tmp_path / "network.tflite", tmp_path / "build", ConvertOptions())
    assert build.record.source_kind == "tensorflow-lite"
    assert [str(spec) for spec in build.record.inputs] == ["image float32[N, 8, 8, 3]"]
    samples = np.load(build.graph / LayerKind.GOLDEN_INPUTS.file_name)["image"]
    assert low <= samples.min() < low * 0.9
    assert high * 0.9 < samples.max() <= high


def edited(path: Path, change: Any) -> Path:
    """Change a file through the object API of its schema."""
    schema = _schema(path)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    change(model, schema)
    builder = importlib.import_module("flatbuffers").Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def custom(name: bytes) -> Any:
    def change(model: Any, schema: Any) -> None:
        code = model.operatorCodes[0]
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = schema.BuiltinOperator.CUSTOM, 32, name

    return change


def unknown(model: Any, schema: Any) -> None:
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.WHILE, 119


def lstm(model: Any, schema: Any) -> None:
    """Make the first operator an LSTM, with a tensor of its state."""
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    model.subgraphs[0].tensors[0].isVariable = True


def variable(model: Any, _schema: Any) -> None:
    model.subgraphs[0].tensors[0].isVariable = True


def sparse(model: Any, schema: Any) -> None:
    (convolution, *_) = (operator for operator in model.subgraphs[0].operators if len(operator.inputs) == 3)
    weights = model.subgraphs[0].tensors[convolution.inputs[1]]
    weights.name, weights.sparsity = b"filter", schema.SparsityParametersT()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            custom(b"TFLite_Detection_PostProcess"),
            "{} must use built-in operators only, but it has the custom operators TFLite_Detection_PostProcess: "
            "replace them, or convert the model that the file was made from",
            id="custom operator",
        ),
        pytest.param(
            custom(b"FlexErfinv"),
            "{} must use built-in operators only, but it has operators of TensorFlow (Flex): Erfinv; "
            "convert the SavedModel or Keras file that it was made from",
            id="operator of TensorFlow",
        ),
        pytest.param(
            unknown,
            "{} has operators of TensorFlow Lite that cannot be converted: WHILE; convert the model that the file was made from",
            id="no rule",
        ),
        pytest.param(
            variable,
            "{} keeps state between calls in 'image' of CONV_2D: save the model with the state as input and output",
            id="state",
        ),
        pytest.param(
            lstm,
            "{} has operators of TensorFlow Lite that cannot be converted: UNIDIRECTIONAL_SEQUENCE_LSTM; "
            "convert the model that the file was made from",
            id="recurrent layer with a state",
        ),
        pytest.param(
            sparse,
            "{}: tensor 'filter' of CONV_2D must be dense, but it is sparse: convert the model without sparsity",
            id="sparse weights",
        ),
    ],
)
def test_a_file_that_cannot_be_converted_is_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    path = edited(written(tmp_path), change)
    with pytest.raises(ModelError) as caught:
        read_tflite(path)
    assert str(caught.value) == message.format(path)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_one_line(tmp_path: Path, share: float) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert identify(path) is SourceKind.TFLITE
    result = CliRunner().invoke(main, ["convert", str(path), "-o", str(tmp_path / "build")])
    assert result.exit_code == 2
    assert result.stderr == (
        f"edgewright: {path} must be a whole TensorFlow Lite file, but it is truncated or damaged: copy it again\n"
    )


def test_a_machine_without_tensorflow_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    _schema.cache_clear()
    with pytest.raises(BadInputError) as caught:
        parse(path)
    _schema.cache_clear()
    assert str(caught.value) == f"{path} needs TensorFlow, which is not installed. Run: pip install 'edgewright[convert]'"
