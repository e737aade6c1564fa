"""The onnxruntime backend: inputs, outputs, errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from accel.backends.onnxruntime_cpu import OnnxRuntime, load_graph
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import LayerKind, Precision, TensorSpec, VariantDirectory
from edgewright.errors import BadInputError, ModelError, OperationError, SamplesError
from tests.support.tiny_variants import expected_scores, make_config, make_variant, tiny_samples


@pytest.fixture
def variant(tmp_path: Path) -> VariantDirectory:
    return make_variant(tmp_path / "fp32")


def test_a_batch_of_any_size_has_the_outputs_of_the_network(variant: VariantDirectory) -> None:
    session = OnnxRuntime().load(variant, threads=1)
    x = tiny_samples(7)
    np.testing.assert_allclose(session.run({"x": x})["scores"], expected_scores(x), rtol=1e-5)


@pytest.mark.parametrize("batch", [pytest.param(1, id="one by one"), pytest.param(4, id="in fours with a rest")])
def test_a_graph_with_a_fixed_batch_has_the_same_outputs(tmp_path: Path, batch: int) -> None:
    session = OnnxRuntime().load(make_variant(tmp_path / "fixed", batch=batch), threads=1)
    x = tiny_samples(7)
    np.testing.assert_allclose(session.run({"x": x})["scores"], expected_scores(x), rtol=1e-5)


def test_integers_are_converted_for_a_float_input(variant: VariantDirectory) -> None:
    session = OnnxRuntime().load(variant, threads=1)
    whole = np.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(session.run({"x": whole})["scores"], session.run({"x": whole.astype(np.float32)})["scores"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param({}, "the model's input x float32[N, 6] is missing; found arrays: none", id="missing"),
        pytest.param({"y": tiny_samples(1)}, "unknown input y: the model's inputs are x float32[N, 6]", id="unknown"),
        pytest.param(
            {"x": np.zeros((2, 5), np.float32)}, "input x must have shape [N, 6], but the samples have shape [2, 5]", id="shape"
        ),
        pytest.param({"x": np.zeros((1, 6), complex)}, "input x must be float32, but the samples are complex128", id="dtype"),
        pytest.param({"x": np.zeros((0, 6), np.float32)}, "at least one sample is needed, but x has none", id="empty"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_actual_and_expected(
    variant: VariantDirectory, inputs: Tensors, message: str
) -> None:
    session = OnnxRuntime().load(variant, threads=1)
    with pytest.raises(SamplesError, match=re.escape(message)):
        session.run(inputs)


@pytest.mark.parametrize(
    "content",
    [pytest.param(b"", id="empty"), pytest.param(b"no model at all", id="text"), pytest.param(b"\x08\x09" * 40, id="bytes")],
)
def test_a_file_that_is_not_a_graph_is_one_line(
    variant: VariantDirectory, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    variant.file(LayerKind.GRAPH).write_bytes(content)
    with pytest.raises(ModelError, match=r"graph\.onnx is not an ONNX graph that onnxruntime can load: ") as refused:
        OnnxRuntime().load(variant, threads=1)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_a_graph_whose_weights_are_missing_is_one_line(variant: VariantDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    variant.file(LayerKind.HEAD_WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"for initializer: w2\..* does not exist: \S*head\.weights"):
        OnnxRuntime().load(variant, threads=1)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_differs_from_its_config_is_refused(variant: VariantDirectory) -> None:
    other = VariantDirectory.write(variant.path, make_config(inputs=(TensorSpec(name="pixels", dtype="uint8", shape=("N", 6)),)))
    with pytest.raises(ModelError, match=r"the inputs of the graph must be those of its config \(pixels uint8\), but it has x"):
        OnnxRuntime().load(other, threads=1)


def test_a_missing_graph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx: no such file"):
        load_graph(tmp_path / "nowhere.onnx")


def test_zero_threads_are_refused(variant: VariantDirectory) -> None:
    with pytest.raises(BadInputError, match=r"^threads must be 1 or more, not 0$"):
        OnnxRuntime().load(variant, threads=0)


def test_a_closed_session_cannot_run(variant: VariantDirectory) -> None:
    session = OnnxRuntime().load(variant, threads=1)
    session.close()
    with pytest.raises(OperationError, match="was closed: load it again"):
        session.run({"x": tiny_samples(1)})


def test_a_session_describes_itself(variant: VariantDirectory) -> None:
    described = OnnxRuntime().load(variant, threads=2).describe()
    assert described["backend"] == "onnxruntime"
    assert described["threads"] == "2"


def test_a_run_that_fails_inside_the_graph_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "reshape.onnx"
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="impossible")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "M"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 7])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(OperationError, match=r"reshape\.onnx failed to run: .*impossible"):
        load_graph(path, threads=1).run({"x": np.zeros((1, 5), np.float32)})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("backend", "precision", "runs"),
    [
        pytest.param("onnxruntime", Precision.INT8, True, id="int8"),
        pytest.param("onnxruntime", Precision.NPU_INT8, True, id="for the npu, not yet compiled"),
        pytest.param("npu", Precision.NPU_INT8, False, id="another backend's"),
    ],
)
def test_the_backend_runs_only_its_variants(backend: str, precision: Precision, runs: bool) -> None:
    assert OnnxRuntime().runs(make_config(backend=backend, precision=precision)) is runs


@pytest.mark.parametrize("shared", [False, True], ids=["own weights", "shared weights"])
@pytest.mark.parametrize("operator", ["MatMul", "Conv"])
def test_integer_weights_have_exact_products_on_every_processor(tmp_path: Path, operator: str, shared: bool) -> None:
    """On x86 without VNNI, two products of 255 and 127 overflow the 16 bits that add them."""
    planes = [1, 1] if operator == "Conv" else []
    weights = helper.make_tensor("w", TensorProto.INT8, [64, 64, *planes], [127] * 4096)
    own = [] if shared else [helper.make_tensor("v", TensorProto.INT8, weights.dims, [127] * 4096)]
    constants = [("one", TensorProto.FLOAT, 1), ("step", TensorProto.FLOAT, 8128), ("u", TensorProto.UINT8, 0)]
    constants += [("zw", TensorProto.INT8, 0), *([] if shared else [("zv", TensorProto.INT8, 0)])]
    graph = helper.make_graph(
        [
            *_quantized("x", "one", "a"),
            *_layer(operator, "a", "w", "b"),
            *_layer(operator, "b", "w" if shared else "v", "y"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64, *planes])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights, *own, *(helper.make_tensor(name, dtype, [], [value]) for name, dtype, value in constants)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "sum.onnx")
    rows = np.full((2, 64, *planes), 255, np.float32)
    sums = load_graph(tmp_path / "sum.onnx", precision=Precision.INT8).run({"x": rows})["y"]
    assert (sums == 255 * 8128).all()


def _layer(operator: str, given: str, weights: str, wanted: str) -> list[onnx.NodeProto]:
    """Return a layer whose sums of 64 products of 255 and 127 are divided by 8128 between the layers."""
    inner = [
        helper.make_node("DequantizeLinear", [weights, "one", f"z{weights}"], [f"{wanted}/weights"]),
        helper.make_node(operator, [given, f"{wanted}/weights"], [f"{wanted}/sums"]),
    ]
    if wanted == "y":
        return [*inner, *_quantized("y/sums", "step", "y")]
    return [
        *inner,
        helper.make_node("QuantizeLinear", [f"{wanted}/sums", "step", "u"], [f"{wanted}/q"]),
        helper.make_node("DequantizeLinear", [f"{wanted}/q", "one", "u"], [wanted]),
    ]


def _quantized(given: str, step: str, wanted: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [given, step, "u"], [f"{wanted}/q"]),
        helper.make_node("DequantizeLinear", [f"{wanted}/q", step, "u"], [wanted]),
    ]
