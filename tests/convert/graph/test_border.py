"""Inputs that are no plain batches: constants, and arrays whose batch is another axis; outputs that do not count the samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from accel.backends.choose import load_session
from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.errors import EdgewrightError
from edgewright.packing import PackOptions, pack
from quantize.quantization import QuantizeOptions, quantize_all
from quantize.scheme import Scheme
from tests.support.convert_networks import noise

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
Shape = list[Any]


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, Shape],
    weights: Mapping[str, npt.NDArray[Any]],
) -> Path:
    """Write an ONNX file and return its path."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def streaming(path: Path, batch: int | str, *, rate: Shape | None = None) -> Path:
    """Return a recurrent network as streaming uses it: one step, and a state [2, batch, 8] whose batch is the second axis."""
    nodes = [
        helper.make_node("Split", ["state", "two"], ["h", "c"], axis=0),
        helper.make_node("Unsqueeze", ["x", "zero"], ["x3"]),
        helper.make_node("LSTM", ["x3", "W", "R", "", "", "h", "c"], ["", "hn", "cn"], hidden_size=8),
        helper.make_node("Concat", ["hn", "cn"], ["next"], axis=0),
        helper.make_node("Squeeze", ["hn", "zero"], ["plain"]),
    ]
    inputs = {"x": (FLOAT, [batch, 16]), "state": (FLOAT, [2, batch, 8])}
    if rate is None:
        nodes.append(helper.make_node("Identity", ["plain"], ["y"]))
    else:
        inputs = {"sr": (INT64, rate)} | inputs  # the constant comes first, so that positions of inputs differ
        nodes += [helper.make_node("Cast", ["sr"], ["gain"], to=FLOAT), helper.make_node("Mul", ["plain", "gain"], ["y"])]
    weights = {"two": np.array([1, 1]), "zero": np.array([0]), "W": noise(1, 32, 16), "R": noise(1, 32, 8)}
    return saved(path, nodes, inputs, {"y": [batch, 8], "next": [2, batch, 8]}, weights)


def expected_of(path: Path, x: npt.NDArray[Any], state: npt.NDArray[Any], **others: Any) -> list[npt.NDArray[Any]]:
    """Return the outputs of the source for one sample at a time, with the samples on the first axis."""
    session = onnxruntime.InferenceSession(path)
    rows = [session.run(None, {"x": x[place : place + 1], "state": state[place][:, None], **others}) for place in range(len(x))]
    return [np.concatenate([y for y, _ in rows]), np.stack([after[:, 0] for _, after in rows])]


def outputs_of(build: BuildDirectory, variant: str = "fp32", **inputs: Any) -> list[npt.NDArray[Any]]:
    return list(load_session(build.variant(variant)).run(inputs).values())


@pytest.mark.parametrize(
    ("batch", "rate", "options"),
    [
        pytest.param("N", None, ConvertOptions(batch_axes={"state": 1}), id="dynamic batch"),
        pytest.param("N", None, ConvertOptions(batch_axes={"state": -2, "next": 1}), id="output named, too"),
        pytest.param(1, None, ConvertOptions(batch_axes={"state": 1}), id="batch of one"),
        pytest.param(2, None, ConvertOptions(batch_axes={"state": 1, "next": 1}), id="batch of two"),
        pytest.param(1, None, ConvertOptions(batch_axes={"state": 1}, shapes=("x=Nx16", "state=2xNx8")), id="batch set free"),
        pytest.param("N", [], ConvertOptions(batch_axes={"state": 1}, constants={"sr": 3}), id="scalar constant"),
        pytest.param("N", [1], ConvertOptions(batch_axes={"state": 1}, constants={"sr": "3"}), id="constant of one number"),
    ],
)
def test_a_model_with_state_computes_for_every_sample_what_its_source_does(
    batch: int | str, rate: Shape | None, options: ConvertOptions, tmp_path: Path
) -> None:
    source = streaming(tmp_path / "m.onnx", batch, rate=rate)
    build = convert_model(source, tmp_path / "build", options)
    x, state = noise(6, 16), noise(6, 2, 8)
    others = {} if rate is None else {"sr": np.full(rate, 3, np.int64)}
    reference = streaming(tmp_path / "reference.onnx", "N", rate=rate)
    assert [spec.name for spec in build.record.inputs] == ["x", "state"]
    for actual, expected in zip(outputs_of(build, x=x, state=state), expected_of(reference, x, state, **others), strict=True):
        assert actual == pytest.approx(expected, abs=1e-5)


def test_the_chain_after_conversion_takes_samples_in_the_layout_of_the_source(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(40, 16), state=noise(2, 40, 8), sr=np.array(3))
    source = streaming(tmp_path / "m.onnx", "N", rate=[])
    options = ConvertOptions(batch_axes={"state": 1}, constants={"sr": 3}, samples=tmp_path / "x.npz")
    build = convert_model(source, tmp_path / "build", options)
    quantize_all(build, [QuantizeOptions(scheme=Scheme.FP16, samples=tmp_path / "x.npz")])
    pack(build, tmp_path / "package", PackOptions(name="streaming"))
    x, state = noise(5, 16), noise(5, 2, 8)
    y, after = outputs_of(build, "fp16", x=x, state=state)
    expected, expected_after = expected_of(source, x, state, sr=np.array(3))
    assert y == pytest.approx(expected, abs=2e-2)
    assert after == pytest.approx(expected_after, abs=1e-2)


@pytest.mark.parametrize(
    ("batch", "rate", "options", "message"),
    [
        pytest.param(
            "N",
            None,
            ConvertOptions(),
            "the first axes of the inputs must count the same samples, but they differ in x [N, 16], state [2, N, 8]: name the "
            "axis that does with --batch-axis state=1, or make an input a constant with --set",
            id="state",
        ),
        pytest.param(
            1,
            None,
            ConvertOptions(),
            "the first axes of the inputs must count the same samples, but they differ in x [1, 16], state [2, 1, 8]: name the "
            "axis that does with --batch-axis state=1, or make an input a constant with --set",
            id="state with a batch of one",
        ),
        pytest.param(
            "N",
            [],
            ConvertOptions(batch_axes={"state": 1}),
            "every input must have an axis that counts samples, but sr has no axes: make it a constant of the graph with "
            "--set sr=VALUE",
            id="scalar",
        ),
        pytest.param(
            "N",
            None,
            ConvertOptions(batch_axes={"stat": 1}),
            "--batch-axis stat: the model has no input or output 'stat'; known: state",
            id="no such input",
        ),
        pytest.param(
            "N",
            None,
            ConvertOptions(batch_axes={"state": 3}),
            "--batch-axis state=3: state has 3 axes, so the axis must be between 0 and 2",
            id="no such axis",
        ),
        pytest.param(
            "N",
            [],
            ConvertOptions(batch_axes={"state": 1}, constants={"sr": "fast"}),
            "--set sr must be int64, as the input, not 'fast'",
            id="no number",
        ),
        pytest.param(
            "N",
            [],
            ConvertOptions(batch_axes={"state": 1}, constants={"sr": 0.5}),
            "--set sr must be int64, as the input, not 0.5",
            id="fraction for integers",
        ),
        pytest.param(
            "N",
            [2],
            ConvertOptions(batch_axes={"state": 1}, constants={"sr": "1,2,3"}),
            "--set sr must have the shape [2] of the input, or one number, not [3]",
            id="too many numbers",
        ),
        pytest.param(
            "N",
            None,
            ConvertOptions(constants={"x": 0, "state": 0}),
            "--set must leave one input for the samples, but it sets all of them: x, state",
            id="all inputs",
        ),
    ],
)
def test_a_refusal_names_the_option_that_helps(
    batch: int | str, rate: Shape | None, options: ConvertOptions, message: str, tmp_path: Path
) -> None:
    source = streaming(tmp_path / "m.onnx", batch, rate=rate)
    with pytest.raises(EdgewrightError) as caught:
        convert_model(source, tmp_path / "build", options)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2
    assert not (tmp_path / "build").exists()


def time_major(path: Path, shape: Shape) -> Path:
    """Return a recurrent network on [time, batch, features], the default of PyTorch."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("LSTM", ["r", "W", "R"], ["steps"], hidden_size=8),
        helper.make_node("Squeeze", ["steps", "one"], ["y"]),
    ]
    weights = {"one": np.array([1]), "W": noise(1, 32, 4), "R": noise(1, 32, 8)}
    return saved(path, nodes, {"x": (FLOAT, shape)}, {"y": [*shape[:2], 8]}, weights)


def attention(path: Path, shape: Shape) -> Path:
    """Return attention over the first axis: [time, batch, features] without a recurrent layer."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["b"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["b"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["b", "k"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "b"], ["v"]),
        helper.make_node("Transpose", ["v"], ["y"], perm=[1, 0, 2]),
    ]
    return saved(path, nodes, {"x": (FLOAT, shape)}, {"y": shape}, {})


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        pytest.param(time_major, ["T", "N", 4], id="recurrent"),
        pytest.param(time_major, [10, 1, 4], id="recurrent, fixed sizes"),
        pytest.param(time_major, ["T", 1, 4], id="recurrent, one sequence"),
        pytest.param(attention, ["T", "N", 4], id="attention"),
    ],
)
def test_steps_in_time_are_not_taken_for_samples(network: Any, shape: Shape, tmp_path: Path) -> None:
    source = network(tmp_path / "m.onnx", shape)
    with pytest.raises(EdgewrightError) as caught:
        convert_model(source, tmp_path / "build", ConvertOptions())
    assert str(caught.value) == (
        "samples must not depend on each other, but those of input x do, as steps in time: if its second axis is the batch, add "
        "--batch-axis x=1; if the first one is, add --batch-axis x=0"
    )


@pytest.mark.parametrize("network", [time_major, attention])
@pytest.mark.parametrize("shape", [pytest.param(["T", "N", 4], id="dynamic"), pytest.param([10, 1, 4], id="fixed")])
def test_sequences_with_their_time_first_are_samples_after_the_batch_axis_is_named(
    network: Any, shape: Shape, tmp_path: Path
) -> None:
    source = network(tmp_path / "m.onnx", shape)
    build = convert_model(source, tmp_path / "build", ConvertOptions(batch_axes={"x": 1}))
    x = noise(3, 10, 4)
    session = onnxruntime.InferenceSession(source)
    expected = np.concatenate([session.run(None, {"x": row[:, None]})[0].swapaxes(0, 1) for row in x])
    assert build.record.independent_samples
    assert outputs_of(build, x=x)[0] == pytest.approx(expected, abs=1e-5)


def test_a_first_axis_that_is_named_stays_the_batch(tmp_path: Path) -> None:
    build = convert_model(time_major(tmp_path / "m.onnx", ["T", "N", 4]), tmp_path / "build", ConvertOptions(batch_axes={"x": 0}))
    assert not build.record.independent_samples


def test_letters_with_their_time_first_need_the_batch_axis_of_the_output(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["b"]), helper.make_node("Transpose", ["b"], ["y"], perm=[1, 0, 2])]
    source = saved(tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["N", 10, 4])}, {"y": [10, "N", 5]}, {"w": noise(4, 5)})
    with pytest.raises(EdgewrightError) as caught:
        convert_model(source, tmp_path / "build", ConvertOptions())
    assert str(caught.value) == (
        "the first axis of every output must count the samples, but output y has the shape [10, 1, 5] for one sample and "
        "[10, 2, 5] for 2: name the axis that does, as in --batch-axis y=1"
    )
    build = convert_model(source, tmp_path / "build", ConvertOptions(batch_axes={"y": 1}))
    x = noise(3, 10, 4)
    assert outputs_of(build, x=x)[0] == pytest.approx(x @ noise(4, 5), abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        pytest.param(["N", 8], "[4, 2] for one sample and [8, 2] for 2", id="rows of all samples"),
        pytest.param([1, 8], "[4, 2] for 1", id="rows of one sample"),
    ],
)
def test_an_output_of_rows_is_refused(shape: Shape, found: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    source = saved(tmp_path / "m.onnx", nodes, {"x": (FLOAT, shape)}, {"y": ["M", 2]}, {"s": np.array([-1, 2])})
    with pytest.raises(EdgewrightError) as caught:
        convert_model(source, tmp_path / "build", ConvertOptions())
    assert str(caught.value) == (
        f"the first axis of every output must count the samples, but output y has the shape {found}: "
        "export it without this output, or name the batch axis of the inputs with --batch-axis"
    )


def test_a_fixed_size_is_replaced_in_graph_and_source(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalMaxPool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    source = saved(tmp_path / "m.onnx", nodes, {"x": (FLOAT, [1, 3, 8, 8])}, {"y": [1, 4]}, {"w": noise(4, 3, 3, 3)})
    build = convert_model(source, tmp_path / "build", ConvertOptions(shapes=("x=Nx3x12x6",)))
    free = saved(tmp_path / "free.onnx", nodes, {"x": (FLOAT, ["N", 3, 12, 6])}, {"y": ["N", 4]}, {"w": noise(4, 3, 3, 3)})
    x = noise(5, 3, 12, 6)
    (expected,) = onnxruntime.InferenceSession(free).run(None, {"x": x})
    assert [str(spec) for spec in (*build.record.inputs, *build.record.outputs)] == [
        "x float32[N, 3, 12, 6]",
        "y float32[N, 4]",
    ]
    assert outputs_of(build, x=x)[0] == pytest.approx(expected, abs=1e-5)
