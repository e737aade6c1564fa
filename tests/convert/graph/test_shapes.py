"""Free axes: fixed by `--shape`, and rejected for profiles with fixed shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper

from convert.from_keras.reader import graph_of
from convert.from_onnx import read_onnx
from convert.graph.shapes import check_shapes, fix_shapes
from convert.passes.simplify import simplify
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.errors import EdgewrightError
from hardware_profiles.catalog import load_profile
from tests.support.convert_networks import keras, noise, relative_difference, run_graph, run_keras, shaken

FLOAT = onnx.TensorProto.FLOAT


def any_size(path: Path, sizes: tuple[Any, ...] = ("N", 3, "height", "width")) -> Path:
    """Return an ONNX file for images of any size: a convolution with `same` padding, and a global pool."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["map"]),
            helper.make_node("GlobalAveragePool", ["map"], ["p"]),
            helper.make_node("Flatten", ["p"], ["score"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", FLOAT, sizes)],
        [
            helper.make_tensor_value_info("score", FLOAT, [sizes[0], 4]),
            helper.make_tensor_value_info("map", FLOAT, [sizes[0], 4, None, None]),
        ],
        [numpy_helper.from_array(noise(4, 3, 3, 3), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *(str(argument) for argument in arguments)])


def error_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr.strip().removeprefix("edgewright: ")


def test_a_dynamic_axis_is_rejected_for_a_profile_with_fixed_shapes(tmp_path: Path) -> None:
    result = run(any_size(tmp_path / "m.onnx"), "-o", tmp_path / "build", "--profile", "npu-sim-4")
    assert error_line(result) == (
        "npu-sim-4 runs fixed shapes only, but input image has a dynamic axis 2 (height) and axis 3 (width): "
        "give each axis its size, as in --shape image=Nx3x224x224"
    )
    assert not (tmp_path / "build").exists()


def test_a_fixed_shape_is_inferred_for_every_value(tmp_path: Path) -> None:
    result = run(any_size(tmp_path / "m.onnx"), "-o", tmp_path / "build", "--shape", "image=Nx3x8x7", "--profile", "npu-sim-4")
    assert result.exit_code == 0, result.output
    record = BuildDirectory.open(tmp_path / "build").record
    assert [str(spec) for spec in (*record.inputs, *record.outputs)] == [
        "image float32[N, 3, 8, 7]",
        "score float32[N, 4]",
        "map float32[N, 4, 4, 4]",
    ]


def test_the_batch_can_be_fixed(tmp_path: Path) -> None:
    result = run(any_size(tmp_path / "m.onnx"), "-o", tmp_path / "build", "--shape", "1x3x8x7")
    assert result.exit_code == 0, result.output
    assert str(BuildDirectory.open(tmp_path / "build").record.outputs[0]) == "score float32[1, 4]"


def test_a_profile_without_fixed_shapes_accepts_dynamic_axes(tmp_path: Path) -> None:
    graph = read_onnx(any_size(tmp_path / "m.onnx"))
    check_shapes(graph, [load_profile("raspberry-pi-5")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "image=1x-2",
            "--shape must be sizes after the input's name, as in image=1x224x224x3, not 'image=1x-2'",
            id="no sizes",
        ),
        pytest.param(
            "picture=1x3x8x8", "--shape picture=1x3x8x8: the model has no input 'picture'; known: image", id="no such input"
        ),
        pytest.param("3x8x8", "--shape 3x8x8: input image has 4 axes, Nx3xheightxwidth, not 3", id="too few axes"),
        pytest.param("Nx3x0x8", "--shape Nx3x0x8: axis 2 of input image must be 1 or more, not 0", id="nothing"),
    ],
)
def test_a_shape_that_is_not_valid_is_rejected(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EdgewrightError) as caught:
        fix_shapes(read_onnx(any_size(tmp_path / "m.onnx")), [text])
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_a_size_that_the_weights_contradict_is_refused_in_one_line(tmp_path: Path) -> None:
    line = error_line(run(any_size(tmp_path / "m.onnx"), "-o", tmp_path / "build", "--shape", "Nx1x8x8"))
    assert "kernel channels" in line
    assert "/.build-" not in line


def test_a_shape_must_name_its_input_if_there_are_several() -> None:
    layers = keras().layers
    ends = [keras().Input((None, 2), name=name) for name in ("left", "right")]
    graph = graph_of(keras().Model(ends, layers.Add(name="sum")(ends)))
    with pytest.raises(EdgewrightError) as caught:
        fix_shapes(graph, ["4x5x2"])
    assert str(caught.value) == "--shape 4x5x2 must name one of the inputs left, right, as in left=4x5x2"


def test_an_output_of_data_dependent_size_is_rejected() -> None:
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["places"])],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 4])],
        [helper.make_tensor_value_info("places", onnx.TensorProto.INT64, [2, "count"])],
    )
    graph = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    with pytest.raises(
        EdgewrightError, match=r"^npu-sim-4 runs fixed shapes only, but output places has a dynamic axis 1 \(count\)"
    ):
        check_shapes(graph, [load_profile("npu-sim-4")])


def test_a_keras_network_with_dynamic_axes_computes_the_same_after_fixing_them() -> None:
    layers = keras().layers
    image = keras().Input((None, None, 3), name="image")
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.Conv2D(4, 3, strides=2, padding="same")(image))
    model = shaken(keras().Model(image, layers.Conv2D(2, 1, name="map")(x)))
    graph = graph_of(model)
    fix_shapes(graph, ["image=Nx11x6x3"])
    simplify(graph, check_each=True)
    batch = noise(2, 11, 6, 3)
    assert str(graph.graph.outputs[0].shape) == "[N,3,2,2]"
    assert relative_difference(run_graph(graph, batch)[0], run_keras(model, batch)[0]) < 1e-5
