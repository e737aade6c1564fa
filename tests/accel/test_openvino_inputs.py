"""The openvino backend rejects the inputs of a graph with free axes that onnxruntime rejects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.backends import openvino_inputs
from accel.backends.onnxruntime_cpu import OnnxRuntime
from accel.backends.openvino_cpu import OpenVino, OpenVinoSession
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import LayerKind, TensorSpec, VariantDirectory
from edgewright.errors import InferenceError, SamplesError
from edgewright.serving.variants.fault_attribution import FaultAttribution
from tests.support.tiny_variants import make_config

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def openvino(require_package: Callable[[str], None]) -> None:
    require_package("openvino")


def variant_of(folder: Path, x: tuple[int, tuple[int | str, ...]], nodes: list[Any], constants: Tensors) -> VariantDirectory:
    """Write a variant with the input x (ONNX type, shape) and the output y of one or more nodes."""
    kind, shape = x
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / LayerKind.GRAPH.file_name)
    dtype = str(helper.tensor_dtype_to_np_dtype(kind))
    config = make_config(
        inputs=(TensorSpec(name="x", dtype=dtype, shape=shape),), outputs=(TensorSpec(name="y", dtype="float32", shape=("N",)),)
    )
    return VariantDirectory.write(folder, config)


def floats(*shape: int) -> np.typing.NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


NODE = helper.make_node
ANY = (TensorProto.FLOAT, ("N", "L"))
IMAGE = (TensorProto.FLOAT, ("N", 2, "H", "W"))
TOKENS = (TensorProto.INT64, ("N", "L"))
W = floats(4, 3)
TABLE = {"t": floats(5, 3)}


@pytest.mark.parametrize(
    ("x", "nodes", "constants", "good", "bad"),
    [
        pytest.param(ANY, [NODE("MatMul", ["x", "w"], ["y"])], {"w": W}, floats(2, 4), floats(2, 5), id="rows of a MatMul"),
        pytest.param(ANY, [NODE("Gemm", ["x", "w"], ["y"])], {"w": W}, floats(2, 4), floats(2, 3), id="rows of a Gemm"),
        pytest.param(
            IMAGE,
            [NODE("Conv", ["x", "w"], ["y"])],
            {"w": floats(3, 2, 3, 3)},
            floats(1, 2, 5, 5),
            floats(1, 2, 2, 5),
            id="picture smaller than the kernel",
        ),
        pytest.param(
            TOKENS,
            [NODE("Gather", ["t", "x"], ["y"])],
            TABLE,
            np.array([[0, 4, -5]]),
            np.array([[0, 5, 1]]),
            id="index beyond a table",
        ),
        pytest.param(
            TOKENS,
            [NODE("Gather", ["t", "x"], ["y"])],
            TABLE,
            np.array([[0, 4, -5]]),
            np.array([[0, 4, -6]]),
            id="index before a table",
        ),
        pytest.param(
            TOKENS,
            [NODE("Cast", ["x"], ["i"], to=TensorProto.INT32), NODE("Gather", ["t", "i"], ["y"])],
            TABLE,
            np.array([[4]]),
            np.array([[7]]),
            id="index in another type",
        ),
    ],
)
def test_what_onnxruntime_rejects_openvino_rejects(
    tmp_path: Path, x: tuple[int, tuple[int | str, ...]], nodes: list[Any], constants: Tensors, good: Any, bad: Any
) -> None:
    variant = variant_of(tmp_path / "v", x, nodes, constants)
    reference, session = OnnxRuntime().load(variant, threads=1), OpenVino().load(variant, threads=1)
    with pytest.raises(InferenceError):
        reference.run({"x": bad})
    np.testing.assert_allclose(session.run({"x": good})["y"], reference.run({"x": good})["y"], rtol=1e-5, atol=1e-6)
    with pytest.raises(InferenceError) as caught:
        session.run({"x": bad})
    assert caught.value.rejects_input
    np.testing.assert_allclose(session.run({"x": good})["y"], reference.run({"x": good})["y"], rtol=1e-5, atol=1e-6)


def test_a_rejected_shape_is_a_fault_of_the_request(tmp_path: Path) -> None:
    variant = variant_of(tmp_path / "v", ANY, [NODE("MatMul", ["x", "w"], ["y"])], {"w": W})
    session = FaultAttribution(OpenVino().load(variant, threads=1), known_good={"x": floats(1, 4)})
    with pytest.raises(
        SamplesError, match=r"^the model cannot score these values: 'y': Incompatible MatMul .*=5 .*; send other values$"
    ):
        session.run({"x": floats(2, 5)})


def test_a_rejected_index_names_the_limits(tmp_path: Path) -> None:
    variant = variant_of(tmp_path / "v", TOKENS, [NODE("Gather", ["t", "x"], ["y"])], TABLE)
    with pytest.raises(InferenceError, match=r"failed to run: x must hold indices from -5 to 4, but it holds 9$"):
        OpenVino().load(variant, threads=1).run({"x": np.array([[9]])})


def test_a_limited_number_of_shapes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_inputs, "KEPT_SHAPES", 2)
    session = OpenVino().load(variant_of(tmp_path / "v", ANY, [NODE("Relu", ["x"], ["y"])], {}), threads=1)
    assert isinstance(session, OpenVinoSession)
    outputs = [session.run({"x": floats(1, length)})["y"].shape for length in (3, 4, 5, 3)]
    assert outputs == [(1, 3), (1, 4), (1, 5), (1, 3)]
    assert len(session._check._accepted) == 2
