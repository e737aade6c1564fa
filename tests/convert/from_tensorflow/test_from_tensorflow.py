"""SavedModels, frozen graphs and Keras models with code, read by TensorFlow in a process with limits."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from convert.conversion import ConvertOptions, convert_model
from convert.from_keras.keras_file import KerasFile
from convert.from_tensorflow.reader import open_tensorflow, read_tensorflow
from convert.passes.simplify import simplify
from convert.run_source import run_source
from convert.source.feed import Feed
from convert.source.identify import SourceKind, identify
from convert.source.options import DEFAULT_OPTIONS, SourceOptions
from convert.source.resource_limits import Limits
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.errors import ModelError, NotFoundError, OperationError
from tests.support.convert_networks import folder, keras, noise, relative_difference, run_graph, saved, shaken

AMPLE = Limits(memory_bytes=6_000_000_000, time_s=250)
pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own warnings


@functools.cache
def network() -> Any:
    """Return a channels-last network with global pooling, a flattened image and two outputs."""
    layers = keras().layers
    keras().utils.set_random_seed(5)
    image = keras().Input((8, 8, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(image)))
    x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", activation="relu")(x)])
    x = layers.MaxPooling2D(2)(layers.ReLU(6)(layers.DepthwiseConv2D(3, strides=2, padding="same")(x)))
    x = layers.Concatenate()([x, layers.Conv2D(4, 1)(x)])
    classes = layers.Dense(5, activation="softmax")(layers.Dense(1600, activation="relu")(layers.Flatten()(x)))
    wide = layers.Dense(300)(layers.Dense(300, name="large")(layers.GlobalAveragePooling2D()(x)))
    return shaken(keras().Model(image, [classes, layers.Dense(3)(wide)]))


@functools.cache
def saved_model() -> Path:
    path = folder() / "saved_model"
    network().export(str(path), verbose=False)
    return path


@functools.cache
def frozen_graph() -> Path:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(lambda image: network()(image)).get_concrete_function(tf.TensorSpec((None, 8, 8, 3), name="image"))
    path = folder() / "frozen"
    path.write_bytes(convert_variables_to_constants_v2(function).graph.as_graph_def().SerializeToString())
    return path


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *(str(argument) for argument in arguments)])


def test_a_saved_model_becomes_a_build_directory_with_one_transpose_at_its_input(tmp_path: Path) -> None:
    result = run(saved_model(), "-o", tmp_path / "build")
    assert result.exit_code == 0, result.output
    record = BuildDirectory.open(tmp_path / "build").record
    assert [str(spec) for spec in record.inputs] == ["image float32[N, 8, 8, 3]"]
    assert [str(spec) for spec in record.outputs] == ["output_0 float32[N, 5]", "output_1 float32[N, 3]"]
    assert operators(tmp_path / "build" / "graph" / "graph.onnx").count("Transpose") == 1
    report = json.loads((tmp_path / "build" / "reports" / "parity.json").read_text("utf-8"))
    assert max(output["max_relative_difference"] for output in report["outputs"]) < 1e-5


def test_an_inner_node_can_be_the_output_and_unknown_names_get_suggestions(tmp_path: Path) -> None:
    kind, path = SourceKind.FROZEN_GRAPH, frozen_graph()
    assert identify(path) is kind
    names = [node.name for node in _graph_def(path).node if node.op == "Relu6"]
    inner = SourceOptions(outputs=(names[0],))
    graph = read_tensorflow(kind, path, AMPLE, inner)
    simplify(graph, check_each=True)
    expected = open_tensorflow(kind, path, inner)(Feed(arrays=[noise(3, 8, 8, 3)], batch_size=2))
    assert relative_difference(run_graph(graph, noise(3, 8, 8, 3))[0], expected[0]) < 1e-5
    with pytest.raises(NotFoundError) as caught:
        open_tensorflow(kind, path, SourceOptions(outputs=(names[0] + "x",)))
    assert str(caught.value).startswith(f"{path} has no node {names[0] + 'x'!r}; known: {names[0]}")


def _graph_def(path: Path) -> Any:
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef()
    graph_def.ParseFromString(path.read_bytes())
    return graph_def


def test_an_unknown_output_is_rejected() -> None:
    with pytest.raises(NotFoundError) as caught:
        open_tensorflow(SourceKind.SAVED_MODEL, saved_model(), SourceOptions(outputs=("output_7",)))
    assert str(caught.value).startswith(f"{saved_model()} has no input or output 'output_7'; known: output_")


def test_inputs_and_outputs_options_are_rejected_for_other_formats(tmp_path: Path) -> None:
    path = saved(keras().Sequential([keras().Input((2,)), keras().layers.Dense(1)]), tmp_path / "m.keras")
    result = run(path, "-o", tmp_path / "build", "--inputs", "x")
    assert result.exit_code == 2
    assert result.stderr == ("edgewright: --inputs and --outputs apply to TensorFlow graphs only, not to keras: leave them out\n")


def test_at_the_memory_limit_the_conversion_fails_and_leaves_no_files(tmp_path: Path) -> None:
    result = run(saved_model(), "-o", tmp_path / "build", "--max-memory", "0.1")
    assert result.exit_code == 1
    assert result.stderr == (
        f"edgewright: {saved_model()}: converting it must stay below 0.1 GB of memory, but it needs more and was stopped: "
        "allow more with --max-memory, or use a larger machine\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_at_the_time_limit_the_conversion_fails() -> None:
    with pytest.raises(OperationError) as caught:
        read_tensorflow(SourceKind.SAVED_MODEL, saved_model(), Limits(memory_bytes=AMPLE.memory_bytes, time_s=0.2))
    assert str(caught.value) == (
        f"{saved_model()}: converting it must end within 0.2 s, but it did not and was stopped: allow more with --max-time"
    )


def refusal(kind: SourceKind, path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_tensorflow(kind, path, DEFAULT_OPTIONS)
    return str(caught.value)


def test_a_truncated_frozen_graph_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "cut.pb"
    path.write_bytes(frozen_graph().read_bytes()[:3000])
    assert refusal(identify(path), path).startswith(f"{path} must be a complete frozen graph, but TensorFlow cannot load it: ")


def test_a_truncated_saved_model_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\xff")
    message = refusal(identify(tmp_path), tmp_path)
    assert message.startswith(f"{tmp_path} must be a complete SavedModel, but TensorFlow cannot load it: ")


def graph_file(path: Path, build: Any) -> Path:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        build(tf)
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_operators_that_access_the_machine_are_rejected_by_name(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "reader", lambda tf: tf.io.read_file(tf.compat.v1.placeholder(tf.string, [], name="x")))
    assert refusal(SourceKind.FROZEN_GRAPH, path) == (
        f"{path} must not run code or access files, but its operators ReadFile do: add --trust if you made it"
    )


def test_operators_that_onnx_lacks_are_named(tmp_path: Path) -> None:
    def build(tf: Any) -> None:
        tf.math.bessel_i0(tf.compat.v1.placeholder(tf.float32, [None, 3], name="x"))

    path = graph_file(tmp_path / "bessel", build)
    with pytest.raises(ModelError) as caught:
        read_tensorflow(SourceKind.FROZEN_GRAPH, path, AMPLE)
    assert str(caught.value) == (
        f"{path} has TensorFlow operators that cannot be expressed in ONNX: BesselI0; "
        "replace them, or cut them off with --outputs"
    )


def test_a_lambda_layer_is_traced_if_its_author_is_trusted(tmp_path: Path) -> None:
    layers = keras().layers
    image = keras().Input((4,), name="x")
    model = keras().Model(image, layers.Dense(3, name="y")(layers.Lambda(lambda x: x * x + 1)(image)))
    path = saved(shaken(model), tmp_path / "m.keras")
    assert KerasFile.open(path).holds_code()
    graph = read_tensorflow(SourceKind.KERAS, path, AMPLE, SourceOptions(trust=True))
    expected = run_source(SourceKind.KERAS, path, [noise(6, 4)], SourceOptions(trust=True))
    assert [str(value.name) for value in (*graph.graph.inputs, *graph.graph.outputs)] == ["x", "y"]
    assert relative_difference(run_graph(graph, noise(6, 4))[0], expected[0]) < 1e-5


def test_a_keras_layer_without_a_rule_is_traced_without_trust(tmp_path: Path) -> None:
    layers = keras().layers
    steps = layers.TimeDistributed(layers.Dense(2), name="steps")
    model = keras().Sequential([keras().Input((5, 4), name="wide input"), steps])
    build = convert_model(saved(shaken(model), tmp_path / "m.keras"), tmp_path / "build", ConvertOptions())
    assert [spec.name for spec in (*build.record.inputs, *build.record.outputs)] == ["wide input", "steps"]
    measured = build.variant("fp32").config.measured
    assert measured is not None
    assert measured.max_relative_difference < 1e-5


def test_a_saved_model_with_the_slot_variables_of_an_optimizer_computes_the_same(tmp_path: Path) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.w, self.m, self.opt = tf.Variable(tf.random.normal([4, 3], seed=1)), tf.Variable(tf.zeros([4, 3])), tf.Module()

    net = Net()
    call = tf.function(lambda x: {"y": x @ net.w}, input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    tf.saved_model.save(net, str(tmp_path / "k2"), signatures=call)
    content = saved_model_pb2.SavedModel.FromString((tmp_path / "k2" / "saved_model.pb").read_bytes())
    objects = content.meta_graphs[0].object_graph_def.nodes
    root = {child.local_name: child.node_id for child in objects[0].children}
    objects[root["opt"]].user_object.identifier = "optimizer"
    objects[root["opt"]].slot_variables.add(original_variable_node_id=root["w"], slot_name="m", slot_variable_node_id=root["m"])
    (tmp_path / "k2" / "saved_model.pb").write_bytes(content.SerializeToString())
    build = convert_model(tmp_path / "k2", tmp_path / "build", ConvertOptions())
    golden = {name: np.load(build.graph / f"golden_{name}.npz") for name in ("inputs", "outputs")}
    assert np.allclose(golden["outputs"]["y"], golden["inputs"]["x"] @ net.w.numpy(), atol=1e-5)
