"""Compile graphs whose host part has constants, outputs and batch sizes of every kind; the float graph is the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.backends.choose import load_session
from accel.npu.profile import find_profile
from edgewright.compiling import compile_variant
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import BackendName, LayerKind
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.npu_builds import make_build
from tests.support.quantize_builds import functional_evaluation

PROFILE = find_profile("npu-sim-8-large")
COUNT = 20
GENERATOR = np.random.default_rng(5)
Array = npt.NDArray[Any]
node = helper.make_node


def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def network(
    after: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, Array] | None = None,
    batch: int | str = "N",
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """Return a convolution of images x with the result r, followed by the nodes `after`."""
    weights = (GENERATOR.normal(size=(4, 3, 3, 3)) * 0.2).astype(np.float32)
    graph = helper.make_graph(
        [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["r"]), *after],
        "network",
        [value("x", [batch, 3, 8, 8]), *inputs],
        list(outputs),
        [numpy_helper.from_array(array, name) for name, array in {"w": weights, **(constants or {})}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def numbers(*shape: int) -> Array:
    return GENERATOR.normal(size=shape).astype(np.float32)


def chosen_by_if() -> onnx.ModelProto:
    """An If after the NPU's part: its bodies read a tensor and a constant of the outer graph."""
    bodies = [
        helper.make_graph([node(operator, ["p", "k"], [operator])], operator, [], [value(operator, ["N", 4, 8, 8])])
        for operator in ("Add", "Sub")
    ]
    after = [
        node("Softmax", ["r"], ["p"], axis=1),
        node("ReduceMax", ["p"], ["m"], keepdims=0),
        node("Greater", ["m", "limit"], ["over"]),
        node("If", ["over"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    return network(after, [Y], {"k": numbers(1, 4, 1, 1), "limit": np.array(0.99, np.float32)})


def of_batch_size(size: int) -> onnx.ModelProto:
    return network([node("Softmax", ["r"], ["y"], axis=1)], [value("y", [size, 4, 8, 8])], batch=size)


SOFTMAX = node("Softmax", ["r"], ["q"], axis=1)
Y = value("y", ["N", 4, 8, 8])
MATRIX = numbers(4, 4, 1, 1)
NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "two reshapes": lambda: network(
        [node("AveragePool", ["r"], ["p"], kernel_shape=[8, 8]), node("Reshape", ["p", "s"], ["q"]),
         node("Reshape", ["q", "t"], ["f"]), node("MatMul", ["f", "m"], ["l"]), node("Softmax", ["l"], ["y"])],
        [value("y", ["N", 5])],
        {"s": np.array([-1, 1, 1, 4]), "t": np.array([-1, 4]), "m": numbers(4, 5)},
    ),
    "split": lambda: network(
        [node("Split", ["r", "s"], ["a", "y"], axis=1), node("Softmax", ["a"], ["z"], axis=1)],
        [value("y", ["N", 3, 8, 8]), value("z", ["N", 1, 8, 8])],
        {"s": np.array([1, 3])},
    ),
    "resize by float scales": lambda: network(
        [node("Resize", ["r", "", "s"], ["y"], mode="nearest")],
        [value("y", ["N", 4, 16, 16])],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "slice by int32": lambda: network(
        [node("Slice", ["r", "start", "end", "axis"], ["y"])],
        [value("y", ["N", 4, 3, 8])],
        {"start": np.array([1], np.int32), "end": np.array([4], np.int32), "axis": np.array([2], np.int32)},
    ),
    "tile": lambda: network(
        [node("GlobalMaxPool", ["r"], ["g"]), node("Tile", ["g", "s"], ["t"]), node("Mul", ["r", "t"], ["y"])],
        [Y],
        {"s": np.array([1, 1, 8, 8])},
    ),
    "weights of both parts": lambda: network(
        [node("Conv", ["r", "m"], ["p"]), node("Softmax", ["p"], ["q"], axis=1), node("Conv", ["q", "m"], ["y"])],
        [Y],
        {"m": MATRIX},
    ),
    "weights of two layers on the host": lambda: network(
        [SOFTMAX, node("Conv", ["q", "m"], ["h"]), node("Softmax", ["h"], ["i"], axis=1), node("Conv", ["i", "m"], ["y"])],
        [Y],
        {"m": MATRIX},
    ),
    "outputs of both parts": lambda: network([node("Softmax", ["r"], ["y"], axis=1)], [value("r", ["N", 4, 8, 8]), Y]),
    "an output that another part reads": lambda: network(
        [node("Conv", ["r", "m"], ["p"]), node("Softmax", ["r"], ["y"], axis=1)], [value("p", ["N", 4, 8, 8]), Y], {"m": MATRIX}
    ),
    "a constant output": lambda: network([node("Softmax", ["r"], ["y"], axis=1)], [Y, value("k", [5])], {"k": numbers(5)}),
    "a constant output beside the NPU's": lambda: network(
        [node("Conv", ["r", "m"], ["y"])], [Y, value("k", [3], TensorProto.INT64)], {"m": MATRIX, "k": np.array([7, 1, 9])}
    ),
    "an input as an output": lambda: network(
        [node("Softmax", ["r"], ["y"], axis=1), node("Identity", ["x"], ["z"])], [Y, value("z", ["N", 3, 8, 8])]
    ),
    "bodies that read outer constants": chosen_by_if,
    **{f"batch of {size}": partial(of_batch_size, size) for size in (1, 4, 32)},
    "batch of 4 in a reshape": lambda: network(
        [SOFTMAX, node("Reshape", ["q", "s"], ["y"])], [value("y", [4, 256])], {"s": np.array([4, 256])}, batch=4
    ),
    "batch of 4 and an input of the host": lambda: network(
        [SOFTMAX, node("Mul", ["q", "gate"], ["y"])], [value("y", [4, 4, 8, 8])], batch=4, inputs=[value("gate", [4, 4, 1, 1])]
    ),
    "batch of 4 and two inputs of the NPU": lambda: network(
        [node("Conv", ["z", "m"], ["q"]), node("Add", ["q", "r"], ["s"]), node("Softmax", ["s"], ["y"], axis=1)],
        [value("y", [4, 4, 8, 8])], {"m": numbers(4, 2, 1, 1)}, batch=4, inputs=[value("z", [4, 2, 8, 8])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_host_part_keeps_its_constants_outputs_and_batch_size(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    shapes = {given.name: [size.dim_value for size in given.type.tensor_type.shape.dim[1:]] for given in model.graph.input}
    samples = {given: numbers(COUNT, *shape) for given, shape in shapes.items()}
    write_npz(tmp_path / "x.npz", samples)
    build = make_build(tmp_path / "build", model, samples)
    quantize(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz"))
    evaluation = functional_evaluation(build, "npu-int8")
    assert evaluation is not None
    assert evaluation.max_relative_difference < 0.15
    compile_variant(build, PROFILE)
    variant = build.variant(PROFILE.name)
    onnx.checker.check_model(str(variant.file(LayerKind.GRAPH)))
    session = load_session(variant, backend=BackendName.NPU)
    found = session.run(samples)
    session.close()
    expected = load_session(build.variant("fp32")).run(samples)
    assert set(found) == set(expected)
    for output, array in expected.items():
        np.testing.assert_allclose(found[output], array, atol=0.15 * np.abs(array).max(), err_msg=output)
