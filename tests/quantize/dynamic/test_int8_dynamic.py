"""The int8-dynamic variant: small, close to float, with the same outputs in ONNX's reference evaluator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from accel.backends.choose import load_session
from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import ModelError
from quantize.calibration.sqnr import decibels
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import noise
from tests.support.quantize_builds import build_without_weights, onnx_file

OUTLIER = 40.0


def products(path: Path) -> Path:
    """Write a network with every form of product: shared activations, factors of Gemm, a transposed weight, a small one."""
    weights = {
        "query": noise(96, 64, seed=1),
        "key": noise(96, 64, seed=2),
        "turned": noise(80, 64, seed=3),
        "bias": noise(80, seed=4),
        "last": noise(80, 10, seed=5),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "query"], ["q"], name="query"),
        helper.make_node("MatMul", ["x", "key"], ["k"], name="key"),
        helper.make_node("Add", ["q", "k"], ["sum"], name="sum"),
        helper.make_node("Relu", ["sum"], ["positive"], name="positive"),
        helper.make_node("Gemm", ["positive", "turned", "bias"], ["g"], name="turned", transB=1, alpha=0.5, beta=2.0),
        helper.make_node("MatMul", ["g", "last"], ["y"], name="last"),
    ]
    return onnx_file(path, nodes, weights, given=("x", ["N", 96]), wanted=("y", ["N", 10]))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> BuildDirectory:
    folder = tmp_path_factory.mktemp("products")
    return convert_model(products(folder / "model.onnx"), folder / "build", ConvertOptions())


@pytest.fixture(scope="module")
def made(build: BuildDirectory) -> VariantDirectory:
    return quantize(build, QuantizeOptions(scheme=Scheme.INT8_DYNAMIC, samples=None)).variant


def test_three_layers_keep_thirty_two_decibels(build: BuildDirectory, made: VariantDirectory) -> None:
    assert output_sqnr(build, made, {"x": noise(32, 96, seed=8)}) > 32


def test_the_reference_evaluator_of_onnx_gives_the_same_outputs(made: VariantDirectory) -> None:
    rows = noise(1, 96, seed=9)
    (expected,) = map(np.asarray, ReferenceEvaluator(onnx.load(made.file(LayerKind.GRAPH))).run(None, {"x": rows}))
    (found,) = load_session(made, backend="onnxruntime").run({"x": rows}).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2 * np.abs(expected).max())


def test_products_of_one_activation_share_its_quantizer(made: VariantDirectory) -> None:
    operators = [node.op_type for node in onnx.load(made.file(LayerKind.GRAPH)).graph.node]
    assert operators.count("MatMulInteger") == 3
    assert operators.count("DynamicQuantizeLinear") == 2


def test_the_variant_takes_less_than_a_third_of_the_bytes(build: BuildDirectory, made: VariantDirectory) -> None:
    assert made.config.size_bytes * 3 < build.variant("fp32").config.size_bytes


def test_a_variant_is_marked_even_if_its_only_sample_looks_independent(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="embedding"),
            helper.make_node("MatMul", ["rows", "w"], ["y"], name="w"),
        ],
        "network",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7, 80])],
        [numpy_helper.from_array(noise(50, 64, seed=1), "table"), numpy_helper.from_array(noise(64, 80, seed=2), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx")
    write_npz(tmp_path / "one.npz", {"ids": np.arange(7).reshape(1, 7)})
    build = convert_model(tmp_path / "model.onnx", tmp_path / "build", ConvertOptions(samples=tmp_path / "one.npz"))
    result = quantize(build, QuantizeOptions(scheme=Scheme.INT8_DYNAMIC, samples=tmp_path / "one.npz"))
    assert not result.variant.config.independent_samples


def test_channels_with_outliers_move_into_the_weights(tmp_path: Path) -> None:
    weights = {"w": noise(128, 64, seed=1)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="w")]
    path = onnx_file(tmp_path / "model.onnx", nodes, weights, given=("x", ["N", 128]), wanted=("y", ["N", 64]))
    rows = noise(64, 128, seed=2)
    rows[:, 5] *= OUTLIER
    write_npz(tmp_path / "rows.npz", {"x": rows})
    build = convert_model(path, tmp_path / "build", ConvertOptions(samples=tmp_path / "rows.npz"))
    made = quantize(build, QuantizeOptions(scheme=Scheme.INT8_DYNAMIC, samples=tmp_path / "rows.npz")).variant
    others = noise(64, 128, seed=3)
    others[:, 5] *= OUTLIER
    exact = load_session(build.variant("fp32")).run({"x": others})["y"] - others[:, 5:6] @ weights["w"][5:6]
    outlier_free = load_session(made).run({"x": others})["y"] - others[:, 5:6] @ weights["w"][5:6]
    assert decibels(float(np.square(exact).sum()), float(np.square(exact - outlier_free).sum())) > 26


def test_an_lstm_with_integers_keeps_its_directions_lengths_and_states(tmp_path: Path) -> None:
    hidden, inputs = 40, 48
    weights = {
        "w": noise(2, 4 * hidden, inputs, seed=1) / 7,
        "r": noise(2, 4 * hidden, hidden, seed=2) / 7,
        "b": noise(2, 8 * hidden, seed=3) / 10,
        "h": noise(2, 1, hidden, seed=4),
    }
    node = helper.make_node(
        "LSTM", ["x", "w", "r", "b", "", "h"], ["y"], name="lstm", hidden_size=hidden, direction="bidirectional"
    )
    nodes = [
        helper.make_node("Transpose", ["rows"], ["x"], name="steps_first", perm=[1, 0, 2]),
        node,
        helper.make_node("Transpose", ["y"], ["z"], name="rows_first", perm=[2, 0, 1, 3]),
    ]
    path = onnx_file(tmp_path / "model.onnx", nodes, weights, given=("rows", [1, 9, inputs]), wanted=("z", [1, 9, 2, hidden]))
    build = convert_model(path, tmp_path / "build", ConvertOptions())
    made = quantize(build, QuantizeOptions(scheme=Scheme.INT8_DYNAMIC, samples=None)).variant
    operators = {node.op_type for node in onnx.load(made.file(LayerKind.GRAPH)).graph.node}
    assert operators == {"Transpose", "DynamicQuantizeLSTM"}
    assert output_sqnr(build, made, {"rows": noise(1, 9, inputs, seed=5)}) > 30


def test_a_table_of_embeddings_stays_int8_after_loading(tmp_path: Path) -> None:
    table = noise(200, 48, seed=1) * np.linspace(0.1, 3, 48, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], name="embedding")],
        "embedding",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", 48])],
        [numpy_helper.from_array(table, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx")
    ids = np.arange(200).reshape(20, 10)
    write_npz(tmp_path / "ids.npz", {"ids": ids})
    build = convert_model(tmp_path / "model.onnx", tmp_path / "build", ConvertOptions(samples=tmp_path / "ids.npz"))
    made = quantize(build, QuantizeOptions(scheme=Scheme.INT8_DYNAMIC, samples=None)).variant
    written = onnx.load(made.file(LayerKind.GRAPH)).graph
    (gather,) = [node for node in written.node if node.op_type == "Gather"]
    types = {tensor.name: tensor.data_type for tensor in written.initializer}
    assert types[gather.input[0]] == TensorProto.INT8
    (found,) = load_session(made).run({"ids": ids}).values()
    assert (np.abs(found - table[ids]) <= np.abs(table).max(axis=0) / 254 * 1.001).all()


@pytest.mark.parametrize("scheme", [Scheme.INT8_DYNAMIC, Scheme.MXINT8], ids=str)
def test_tensors_may_have_the_names_that_the_scheme_gives(tmp_path: Path, scheme: Scheme) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m/q"], name="m"),
        helper.make_node("Relu", ["m/q"], ["x/scale"], name="m/integers"),
        helper.make_node("MatMul", ["x/scale", "v"], ["y"], name="x/quantizer"),
    ]
    weights = {"w": noise(64, 64, seed=1), "v": noise(64, 64, seed=2)}
    path = onnx_file(tmp_path / "model.onnx", nodes, weights, given=("x", ["N", 64]), wanted=("y", ["N", 64]))
    build = convert_model(path, tmp_path / "build", ConvertOptions())
    made = quantize(build, QuantizeOptions(scheme=scheme, samples=None)).variant
    assert output_sqnr(build, made, {"x": noise(16, 64, seed=3)}) > 30


@pytest.mark.parametrize("scheme", [Scheme.INT8_DYNAMIC, Scheme.MXINT8], ids=str)
def test_a_weight_that_the_body_of_a_loop_reads_too_stays_right(tmp_path: Path, scheme: Scheme) -> None:
    inside = [
        helper.make_node("MatMul", ["state", "w"], ["next"], name="inside"),
        helper.make_node("Identity", ["go"], ["again"], name="again"),
    ]
    given: list[tuple[str, int, list[int] | None]] = [
        ("step", TensorProto.INT64, []),
        ("go", TensorProto.BOOL, []),
        ("state", TensorProto.FLOAT, None),
    ]
    body = helper.make_graph(
        inside,
        "body",
        [helper.make_tensor_value_info(*one) for one in given],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["first"], name="first"),
            helper.make_node("Loop", ["count", "yes", "first"], ["y"], name="loop", body=body),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
        [
            numpy_helper.from_array(noise(64, 64, seed=1) / 8, "w"),
            numpy_helper.from_array(np.array(2), "count"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx")
    build = convert_model(tmp_path / "model.onnx", tmp_path / "build", ConvertOptions())
    made = quantize(build, QuantizeOptions(scheme=scheme, samples=None)).variant
    assert output_sqnr(build, made, {"x": noise(16, 64, seed=3)}) > 30


def test_a_model_without_weights_is_refused() -> None:
    build = build_without_weights()
    with pytest.raises(ModelError) as raised:
        quantize(build, QuantizeOptions(scheme=Scheme.INT8_DYNAMIC, samples=None))
    assert str(raised.value) == (
        f"{build.path}: int8-dynamic needs layers with weights (MatMul, Gemm, LSTM, …), but the graph has ['CumSum']"
    )


def output_sqnr(build: BuildDirectory, made: VariantDirectory, inputs: dict[str, np.ndarray]) -> float:
    """Return the SQNR of the only output, in dB; both run one sample at a time."""
    signal = noise_energy = 0.0
    sessions = [load_session(one, backend="onnxruntime") for one in (build.variant("fp32"), made)]
    for place in range(len(next(iter(inputs.values())))):
        one = {name: array[place : place + 1] for name, array in inputs.items()}
        (exact,), (rounded,) = (session.run(one).values() for session in sessions)
        signal += float(np.square(exact).sum())
        noise_energy += float(np.square(exact - rounded).sum())
    return decibels(signal, noise_energy)
