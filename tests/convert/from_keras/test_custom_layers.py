"""Custom Keras layers: converted with a file of converters, or rejected in one line with advice."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from convert.from_keras.custom_layers import CustomLayers, custom_layers
from convert.from_keras.keras_file import KerasFile
from convert.from_keras.reader import graph_of, read_keras
from edgewright.cli import main
from edgewright.errors import BadInputError, ModelError
from tests.support.convert_networks import converted, keras, noise, relative_difference, run_graph, run_keras, saved, shaken

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "convert-custom-layers.md"


@pytest.fixture
def layers_file(tmp_path: Path) -> Path:
    """Return the file in the documentation."""
    match = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert match is not None
    path = tmp_path / "my_layers.py"
    path.write_text(match.group(1), "utf-8")
    return path


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Remove the modules and classes that a test registered."""
    keras()
    before = set(sys.modules)
    registered = keras().saving.get_custom_objects()
    previous = dict(registered)
    yield
    registered.clear()
    registered.update(previous)
    if "my_layers" not in before:
        sys.modules.pop("my_layers", None)


def gated(path: Path) -> Any:
    """Return a model with the documented layer after a convolution."""
    (gate,) = custom_layers(path).objects.values()
    layers = keras().layers
    image = keras().Input((7, 5, 3), name="image")
    x = gate(name="gate")(layers.Conv2D(4, 3, name="conv")(image))
    return shaken(keras().Model(image, layers.Dense(3, name="score")(layers.GlobalMaxPooling2D()(x))))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *(str(argument) for argument in arguments)])


def test_the_documented_layer_converts_without_tracing_and_matches_keras(layers_file: Path, tmp_path: Path) -> None:
    model = saved(gated(layers_file), tmp_path / "model.keras")
    result = run(model, "-o", tmp_path / "build", "--converters", layers_file, "--trust")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "build" / "reports" / "parity.json").read_text("utf-8"))
    assert report["outputs"][0]["max_relative_difference"] < 1e-5
    names = [node.name for node in onnx.load(tmp_path / "build" / "graph" / "graph.onnx", load_external_data=False).graph.node]
    assert [name for name in names if name.startswith("gate/")] == ["gate/Mul", "gate/Sigmoid", "gate/Mul_2"]


@pytest.mark.slow  # TensorFlow is loaded in two processes
def test_without_a_converter_tensorflow_traces_the_custom_layer(layers_file: Path, tmp_path: Path) -> None:
    model = saved(gated(layers_file), tmp_path / "model.keras")
    layers_file.write_text(layers_file.read_text("utf-8").replace("CONVERTERS = {Gate: convert_gate}", ""), "utf-8")
    result = run(model, "-o", tmp_path / "build", "--converters", layers_file, "--trust")
    assert result.exit_code == 0, result.output


def error_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr.strip().removeprefix("edgewright: ")


def test_the_error_for_a_custom_layer_names_it_and_the_option_to_convert_it(layers_file: Path, tmp_path: Path) -> None:
    model = saved(gated(layers_file), tmp_path / "model.keras")
    assert error_line(run(model, "-o", tmp_path / "build")) == (
        f"{model}: layer 'gate' (Gate, layer 2) is a custom layer, not a built-in one: "
        "give its class and converter with --converters FILE.py --trust, or replace it by built-in layers"
    )
    assert not (tmp_path / "build").exists()


def test_converters_run_only_for_a_trusted_author(layers_file: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "model.keras", "-o", tmp_path / "build", "--converters", layers_file)
    assert error_line(result) == f"--converters runs {layers_file}: add --trust if you know who wrote it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("import nothing_such", "{} must run, but it raised ModuleNotFoundError: No module", id="import"),
        pytest.param("CONVERTERS = [1]", "{}: CONVERTERS must be a dictionary from layer class to function, not list", id="list"),
        pytest.param("CONVERTERS = {1: len}", "CONVERTERS must map layer classes or registered names to functions", id="key"),
    ],
)
def test_a_converters_file_that_is_not_valid_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken_layers.py"
    path.write_text(text, "utf-8")
    with pytest.raises(BadInputError) as caught:
        custom_layers(path)
    assert str(caught.value).startswith(message.format(path))


def test_a_missing_converters_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.py: no such file; --converters takes a Python file that defines CONVERTERS$"):
        custom_layers(tmp_path / "none.py")


def test_a_converter_that_fails_is_named_with_its_layer(layers_file: Path) -> None:
    model = gated(layers_file)
    with pytest.raises(ModelError) as caught:
        graph_of(model, CustomLayers.of({"mine>Gate": lambda call: call.layer.no_such_setting}))
    assert str(caught.value).startswith(
        "layer 'gate' (mine>Gate, layer 2 of 4): its converter failed (-v shows where): AttributeError: "
    )


def test_a_converter_that_returns_nothing_is_rejected(layers_file: Path) -> None:
    nothing: Any = {"mine>Gate": print}
    with pytest.raises(ModelError) as caught:
        graph_of(gated(layers_file), CustomLayers.of(nothing))
    assert str(caught.value) == "layer 'gate' (mine>Gate): its converter must return a Tensor, not NoneType"


def test_a_custom_activation_function_can_have_a_converter(tmp_path: Path) -> None:
    @keras().saving.register_keras_serializable("mine")  # type: ignore[untyped-decorator]
    def twice(x: Any) -> Any:
        return x * 2

    layers = keras().layers
    row = keras().Input((4,))
    model = shaken(keras().Model(row, layers.Dense(3, activation=twice)(row)))
    path = saved(model, tmp_path / "model.keras")
    custom = CustomLayers.of({twice: lambda call: call.like_input(call.node("Add", call.only.value, call.only.value))})
    graph = read_keras(KerasFile.open(path), custom)
    assert relative_difference(run_graph(graph, noise(2, 4))[0], run_keras(model, noise(2, 4))[0]) < 1e-6


def test_an_installed_package_provides_converters(layers_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = gated(layers_file)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint(name="mine", value="my_layers:CONVERTERS", group="edgewright.converters")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == point.group else [])
    batch = noise(2, 7, 5, 3)
    graph = graph_of(model, custom_layers(None))
    assert relative_difference(run_graph(graph, batch)[0], run_keras(model, batch)[0]) < 1e-5
    with pytest.raises(
        ModelError, match=r"^layer 'gate' \(Gate, layer 2 of 4\) cannot be converted: this layer is not supported"
    ):
        converted(model)
