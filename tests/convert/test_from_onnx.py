"""ONNX files: other operator sets are converted, and unsupported graphs are rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import skl2onnx
from onnx import helper, numpy_helper
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from convert import from_onnx
from convert.conversion import ConvertOptions, convert_model
from convert.from_onnx import read_onnx
from convert.graph.shapes import fix_shapes
from convert.passes.simplify import simplify
from edgewright.contracts.variant import LayerKind
from edgewright.errors import ModelError
from tests.support.convert_networks import noise, relative_difference, run_graph

FLOAT = onnx.TensorProto.FLOAT


def onnx_file(path: Path, opset: int, nodes: list[onnx.NodeProto], **constants: Any) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", 4, 4, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def convolution(path: Path, opset: int) -> Path:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    return onnx_file(path, opset, nodes, w=noise(4, 3, 3, 3))


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21, 22, 23, 25])
def test_a_graph_of_another_operator_set_computes_the_same(opset: int, tmp_path: Path) -> None:
    graph = read_onnx(convolution(tmp_path / "m.onnx", opset))
    reference = read_onnx(convolution(tmp_path / "r.onnx", 21))
    batch = noise(2, 3, 6, 6)
    assert relative_difference(run_graph(graph, batch)[0], run_graph(reference, batch)[0]) == 0
    assert graph.opset_imports[""] in (21, 22)


def dated(path: Path, opset: int) -> Path:
    """Return a graph of operators that changed: former attributes are inputs in newer operator sets."""
    constants: dict[str, Any] = {"w": noise(4, 3, 3, 3)}

    def changed(operator: str, source: str, result: str, since: int, **settings: Any) -> onnx.NodeProto:
        if opset < since:
            return helper.make_node(operator, [source], [result], **settings)
        names = []
        for name, value in settings.items():
            names.append(f"{result}_{name}")
            constants[names[-1]] = np.asarray(value, np.int64 if np.asarray(value).dtype.kind == "i" else np.float32)
        return helper.make_node(operator, [source, *names], [result])

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        changed("Clip", "c", "clipped", 11, min=-0.5, max=0.8),
        changed("Pad", "clipped", "padded", 11, pads=[0, 0, 1, 0, 0, 0, 0, 1]),
        changed("Slice", "padded", "cut", 10, starts=[0, 1], ends=[4, 5], axes=[2, 3]),
        changed("Unsqueeze", "cut", "wide", 13, axes=[1]),
        changed("Squeeze", "wide", "narrow", 13, axes=[1]),
        helper.make_node("Dropout", ["narrow"], ["dropped"]),
        helper.make_node("Softmax", ["dropped"], ["y"], axis=1),
    ]
    return onnx_file(path, opset, nodes, **constants)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 16, 19])
def test_operators_that_changed_between_operator_sets_compute_the_same(opset: int, tmp_path: Path) -> None:
    path = dated(tmp_path / "m.onnx", opset)
    graph = read_onnx(path)
    simplify(graph, check_each=True)
    batch = noise(2, 3, 6, 6)
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"x": batch})[0]
    assert relative_difference(run_graph(graph, batch)[0], expected) < 1e-6


def test_an_onnx_file_becomes_a_build_directory(tmp_path: Path) -> None:
    build = convert_model(convolution(tmp_path / "m.onnx", 11), tmp_path / "build", ConvertOptions())
    assert build.record.source_kind == "onnx"
    assert [str(spec) for spec in build.record.inputs] == ["x float32[batch, 3, 6, 6]"]
    assert build.record.cut is not None
    assert build.record.cut.head_nodes == 0


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_onnx(path)
    return str(caught.value)


def test_an_operator_set_that_is_too_old_is_rejected(tmp_path: Path) -> None:
    path = convolution(tmp_path / "m.onnx", 6)
    assert refusal(path) == f"{path} must use operator set 7 or newer, but it uses 6: export it with opset 21"


def test_a_newer_operator_than_our_operator_set_is_rejected(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", 24, [helper.make_node("TensorScatter", ["x", "x"], ["y"])])
    assert refusal(path).startswith(f"{path} cannot be converted from operator set 24 to 21, export it with opset 21: ")


def test_an_operator_of_an_unknown_domain_is_named_with_its_node(tmp_path: Path) -> None:
    path = convolution(tmp_path / "m.onnx", 21)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Blur", ["y"], ["z"], name="soft", domain="studio"))
    model.opset_import.append(helper.make_opsetid("studio", 1))
    onnx.save(model, path)
    assert refusal(path) == (
        f"{path} must use operators that onnxruntime has, but it uses Blur of studio (node 'soft'): "
        "replace them by standard ones, or define them in the model as ONNX functions"
    )


def test_generated_indices_are_within_a_small_table(tmp_path: Path) -> None:
    tokens = helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["N", 6])
    rows = helper.make_tensor_value_info("rows", FLOAT, ["N", 6, 2])
    table = numpy_helper.from_array(noise(5, 2), "table")
    graph = helper.make_graph([helper.make_node("Gather", ["table", "tokens"], ["rows"])], "g", [tokens], [rows], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=8), tmp_path / "m.onnx")
    build = convert_model(tmp_path / "m.onnx", tmp_path / "build", ConvertOptions())
    golden = np.load(build.graph / "golden_inputs.npz")["tokens"]
    assert golden.min() >= 0
    assert golden.max() < 5


def test_an_output_that_is_not_a_tensor_is_rejected(tmp_path: Path) -> None:
    path = convolution(tmp_path / "m.onnx", 21)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["list"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("list", FLOAT, None))
    onnx.save(model, path)
    assert refusal(path) == f"{path}: list must be a tensor; export the model without maps and sequences"


@pytest.mark.parametrize(
    "classifier",
    [
        pytest.param(LogisticRegression(), id="logistic regression"),
        pytest.param(DecisionTreeClassifier(max_depth=4), id="trees"),
    ],
)
@pytest.mark.parametrize("classes", [2, 3])
def test_the_maps_of_a_classifier_become_its_probabilities(classifier: Any, classes: int, tmp_path: Path) -> None:
    samples = noise(60, 4)
    classifier = clone(classifier).fit(samples, 3 + np.arange(60) % classes)
    graph = skl2onnx.to_onnx(classifier, samples[:1], options={"zipmap": True}, target_opset=15)
    (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
    assert graph.graph.output[1].type.HasField("sequence_type")
    build = convert_model(tmp_path / "m.onnx", tmp_path / "build", ConvertOptions())
    session = onnxruntime.InferenceSession(build.variant("fp32").file(LayerKind.GRAPH))
    label, probabilities = session.run(None, {session.get_inputs()[0].name: samples})
    assert (label == classifier.predict(samples)).all()
    np.testing.assert_allclose(probabilities, classifier.predict_proba(samples), atol=1e-6)


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    path = convolution(tmp_path / "m.onnx", 21)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.weights", size_threshold=0)
    (tmp_path / "m.weights").unlink()
    assert refusal(path).startswith(f"{path} is not a valid ONNX model: ")


def test_an_unknown_operator_is_rejected(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", 21, [helper.make_node("Frobnicate", ["x"], ["y"])])
    assert refusal(path).startswith(f"{path} is not a valid ONNX model: No Op registered for Frobnicate")


def test_weights_are_unchanged(tmp_path: Path) -> None:
    graph = read_onnx(convolution(tmp_path / "m.onnx", 9))
    assert np.array_equal(graph.graph.initializers["w"].const_value.numpy(), noise(4, 3, 3, 3))


def with_negative_axes(path: Path, *axes: int) -> Path:
    """Return a convolution whose input has free axes of size -1, as Paddle2ONNX writes them."""
    convolution(path, 21)
    model = onnx.load(path)
    for axis in axes:
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = -1
    for size in model.graph.output[0].type.tensor_type.shape.dim:
        size.dim_value = -1
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("shape", ["x=Nx3x6x6", "x=-1x3x6x6", "x=2x3x6x6"])
def test_an_axis_of_size_minus_one_is_free(shape: str, tmp_path: Path) -> None:
    path = with_negative_axes(tmp_path / "m.onnx", 0, 2, 3)
    graph = read_onnx(path)
    fix_shapes(graph, [shape])
    batch = noise(2, 3, 6, 6)
    expected = onnxruntime.InferenceSession(str(convolution(tmp_path / "r.onnx", 21))).run(None, {"x": batch})[0]
    assert [size if isinstance(size, int) else "free" for size in graph.graph.inputs[0].shape][1:] == [3, 6, 6]
    assert relative_difference(run_graph(graph, batch)[0], expected) < 1e-6


WITHOUT_IT = "export the model without it, or with a first axis for the samples"


@pytest.mark.parametrize("role", ["input", "output"])
def test_a_scalar_input_or_output_is_rejected(role: str, tmp_path: Path) -> None:
    vector = helper.make_tensor_value_info("x", FLOAT, ["N", 4])
    scalar = helper.make_tensor_value_info("s", FLOAT, [])
    wide = helper.make_tensor_value_info("y", FLOAT, ["N", 4])
    graph = {
        "input": ([helper.make_node("Mul", ["x", "s"], ["y"])], "g", [vector, scalar], [wide]),
        "output": ([helper.make_node("ReduceMean", ["x"], ["s"], keepdims=0)], "g", [vector], [scalar]),
    }[role]
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(helper.make_graph(*graph), opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(ModelError) as caught:
        convert_model(tmp_path / "m.onnx", tmp_path / "build", ConvertOptions())
    assert str(caught.value) == (
        f"every {role} must have an axis that counts samples, but s has no axes: "
        + ("make it a constant of the graph with --set s=VALUE" if role == "input" else WITHOUT_IT)
    )
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("exists", [True, False], ids=["to a directory", "to nothing"])
def test_an_output_that_is_a_link_is_followed(exists: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "other" / "disk", tmp_path / "build"
    target.parent.mkdir()
    target.mkdir() if exists else None
    link.symlink_to(target)
    convert_model(convolution(tmp_path / "m.onnx", 21), link, ConvertOptions())
    assert link.is_symlink()
    assert (target / "build.json").is_file()


def external(folder: Path, opset: int) -> tuple[Path, np.typing.NDArray[np.float32]]:
    """Return an ONNX file whose weight is in a file beside it, and the weight."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path, weight


def test_weights_above_the_limit_of_a_message_stay_in_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_onnx, "LARGEST_MESSAGE", 40)
    path, weight = external(tmp_path, 21)
    monkeypatch.setattr(onnx, "load_external_data_for_model", None)
    model = read_onnx(path)
    stored = model.graph.initializers["w"].const_value
    assert isinstance(stored, ir.ExternalTensor)
    np.testing.assert_array_equal(stored.numpy(), weight)


def test_weights_above_the_limit_of_a_message_in_an_old_operator_set_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_onnx, "LARGEST_MESSAGE", 40)
    path, _weight = external(tmp_path, 17)
    with pytest.raises(ModelError) as caught:
        read_onnx(path)
    assert str(caught.value) == (
        f"{path} must use operator set 21 to 22, because its weights exceed 2 GB, which ONNX's converter of operator sets cannot "
        "hold: export it with opset 21"
    )
