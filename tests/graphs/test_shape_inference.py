"""Graphs with sequences keep their types through the passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.backend.test.loader as cases
import pytest
from onnx import helper, numpy_helper

from accel.backends.onnxruntime_cpu import open_runtime
from convert.from_onnx import read_onnx
from convert.passes.simplify import simplify
from edgewright.graphs.files import write_graph

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
NODE = helper.make_node
X = np.arange(24, dtype=np.float32).reshape(3, 8)
SEQUENCE_MODELS = [case for case in cases.load_model_tests(kind="simple") if case.name.startswith("test_sequence_model")]


def outputs_after_passes(source: Path, folder: Path, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Return the outputs of a graph after reading, passes and writing."""
    model = read_onnx(source)
    simplify(model)
    write_graph(folder, model, lambda _node: False)
    return list(open_runtime(folder / "graph.onnx").run(None, inputs))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in SEQUENCE_MODELS])
def test_onnx_models_with_sequences_give_their_own_results(case: Any, tmp_path: Path) -> None:
    source = Path(case.model_dir) / "model.onnx"
    graph = onnx.load(source).graph
    data = Path(case.model_dir) / "test_data_set_0"
    weights = {weight.name for weight in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    given = {name: tensor(data / f"input_{place}.pb") for place, name in enumerate(inputs)}
    expected = [tensor(data / f"output_{place}.pb") for place in range(len(graph.output))]
    actual = outputs_after_passes(source, tmp_path, given)
    assert all(np.array_equal(one, other) for one, other in zip(actual, expected, strict=True))


def tensor(path: Path) -> npt.NDArray[Any]:
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def branch(name: str, *columns: int) -> onnx.GraphProto:
    """Return a branch that makes a sequence of parts of x."""
    parts = [NODE("Gather", ["x", f"{name}_{column}"], [f"{name}_part_{column}"], axis=1) for column in columns]
    made = NODE("SequenceConstruct", [node.output[0] for node in parts], [f"{name}_sequence"])
    places = [numpy_helper.from_array(np.array([column]), f"{name}_{column}") for column in columns]
    result = helper.make_tensor_sequence_value_info(f"{name}_sequence", FLOAT, None)
    return helper.make_graph([*parts, made], name, [], [result], places)


CONSTANTS = {
    "0": np.array(0),
    "1": np.array(1),
    "sizes": np.array([2, 6]),
    "true": np.array(True),
    "zero": np.zeros((3, 1), np.float32),
}
GRAPHS = {
    "split": [NODE("SplitToSequence", ["x", "sizes"], ["s"], axis=1), NODE("SequenceAt", ["s", "1"], ["y"])],
    "split into rows": [
        NODE("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
        NODE("ConcatFromSequence", ["s"], ["y"], axis=1, new_axis=1),
    ],
    "grow from empty": [
        NODE("SequenceEmpty", [], ["e"]),
        NODE("SequenceInsert", ["e", "x"], ["s"]),
        NODE("SequenceInsert", ["s", "zero", "0"], ["t"]),
        NODE("ConcatFromSequence", ["t"], ["y"], axis=1),
    ],
    "copy and erase": [
        NODE("SequenceConstruct", ["x", "zero"], ["s"]),
        NODE("Identity", ["s"], ["same"]),
        NODE("SequenceErase", ["same", "1"], ["t"]),
        NODE("SequenceAt", ["t", "0"], ["y"]),
    ],
    "branch": [
        NODE("If", ["true"], ["s"], then_branch=branch("then", 0, 2), else_branch=branch("else", 1)),
        NODE("ConcatFromSequence", ["s"], ["y"], axis=1),
    ],
    "optional": [NODE("Optional", ["x"], ["o"]), NODE("OptionalGetElement", ["o"], ["y"])],
    "optional sequence": [
        NODE("SequenceConstruct", ["x", "zero"], ["s"]),
        NODE("Optional", ["s"], ["o"]),
        NODE("OptionalGetElement", ["o"], ["t"]),
        NODE("ConcatFromSequence", ["t"], ["y"], axis=1),
    ],
}
EXPECTED = {
    "split": X[:, 2:],
    "split into rows": X,
    "grow from empty": np.concatenate([np.zeros((3, 1), np.float32), X], axis=1),
    "copy and erase": X,
    "branch": X[:, [0, 2]],
    "optional": X,
    "optional sequence": np.concatenate([X, np.zeros((3, 1), np.float32)], axis=1),
}


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("name", GRAPHS)
def test_sequence_operators_keep_their_types(name: str, opset: int, tmp_path: Path) -> None:
    graph = helper.make_graph(
        GRAPHS[name],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", "K"])],
        [numpy_helper.from_array(array, key) for key, array in CONSTANTS.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    (actual,) = outputs_after_passes(path, tmp_path, {"x": X})
    assert np.array_equal(actual, EXPECTED[name])
