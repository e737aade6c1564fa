"""Models other than a plain float network with one input: refused in one line, or quantized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.errors import ModelError
from edgewright.progress import T
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme

SCHEMES = pytest.mark.parametrize("scheme", list(Scheme), ids=str)
Places = Sequence[tuple[str, Any, Sequence[Any]]]


def built(folder: Path, nodes: Sequence[onnx.NodeProto], given: Places, wanted: Places, **weights: Any) -> BuildDirectory:
    """Convert a network, and write samples of it to `samples.npz` beside it."""
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info(*place) for place in given],
        [helper.make_tensor_value_info(*place) for place in wanted],
        [numpy_helper.from_array(np.asarray(numbers), name) for name, numbers in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "m.onnx")
    build = convert_model(folder / "m.onnx", folder / "build", ConvertOptions())
    write_npz(folder / "samples.npz", {name: like(array) for name, array in np.load(build.graph / "golden_inputs.npz").items()})
    return build


def like(array: Any) -> Any:
    """Return samples of the shape and dtype of generated ones, which hold zeros and sentinels, from one distribution."""
    return np.random.default_rng(1).normal(size=array.shape).astype(array.dtype)


def options(scheme: Scheme, folder: Path) -> QuantizeOptions:
    return QuantizeOptions(scheme=scheme, samples=folder / "samples.npz")


def numbers(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape)


@SCHEMES
@pytest.mark.parametrize(("kind", "name"), [(np.float16, "float16"), (np.float64, "double")], ids=["half", "double"])
def test_weights_of_another_precision_are_refused(kind: Any, name: str, scheme: Scheme, tmp_path: Path) -> None:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    build = built(tmp_path, [product], [("x", dtype, ["N", 3])], [("y", dtype, ["N", 4])], w=numbers(3, 4).astype(kind))
    with pytest.raises(ModelError) as raised:
        quantize(build, options(scheme, tmp_path))
    assert str(raised.value) == (f"{build.path}: the weights must be float32, but they are {name}: export the model in float32")


@SCHEMES
def test_a_quantized_model_is_refused(scheme: Scheme, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    levels = (numbers(3, 4) * 40).astype(np.int8)
    ends = [("x", TensorProto.FLOAT, ["N", 3])], [("y", TensorProto.FLOAT, ["N", 4])]
    build = built(tmp_path, nodes, *ends, w=levels, scale=np.float32(0.02))
    with pytest.raises(ModelError) as raised:
        quantize(build, options(scheme, tmp_path))
    assert str(raised.value) == (
        f"{build.path}: the model must be a float model, but it is already quantized (DequantizeLinear): "
        "convert its float original, or package it as it is"
    )


def test_mixed_refuses_a_graph_without_float_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["y"], axis=1, keepdims=0),
    ]
    ends = [("x", TensorProto.FLOAT, ["N", 3])], [("y", TensorProto.INT64, ["N"])]
    build = built(tmp_path, nodes, *ends, w=numbers(3, 4).astype(np.float32))
    with pytest.raises(
        ModelError, match="mixed measures the SQNR at the outputs, so one of them must hold floats, but none does"
    ):
        quantize(build, options(Scheme.MIXED, tmp_path))


def two_inputs(folder: Path) -> BuildDirectory:
    """Return a network with an image input and a vector input without a convolution."""
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], name="conv"),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], name="flat"),
        helper.make_node("Concat", ["features", "beside"], ["both"], name="join", axis=1),
        helper.make_node("MatMul", ["both", "w"], ["y"], name="score"),
    ]
    given = [("image", TensorProto.FLOAT, ["N", 2, 6, 6]), ("beside", TensorProto.FLOAT, ["N", 3])]
    weights = {"kernel": numbers(4, 2, 3, 3).astype(np.float32), "w": numbers(7, 5).astype(np.float32)}
    return built(folder, nodes, given, [("y", TensorProto.FLOAT, ["N", 5])], **weights)


def test_an_input_that_only_the_host_reads_reaches_it(tmp_path: Path) -> None:
    evaluation = quantize(two_inputs(tmp_path), options(Scheme.NPU_INT8, tmp_path)).functional
    assert evaluation is not None
    assert evaluation.max_relative_difference < 0.05
    assert (tmp_path / "build" / "reports" / "functional-npu-int8.json").is_file()


def test_one_progress_bar_is_shown_at_a_time(tmp_path: Path) -> None:
    """The search measures the SQNR of every layer under one bar of its own."""
    labels: list[str] = []

    def record(items: Sequence[T], label: str, /) -> Sequence[T]:
        labels.append(label)
        return items

    quantize(two_inputs(tmp_path), options(Scheme.MIXED, tmp_path), progress=record)
    assert labels.count("sensitivity of layers") == 1
    assert labels.count("measuring SQNR") == 1  # that of the finished variant
