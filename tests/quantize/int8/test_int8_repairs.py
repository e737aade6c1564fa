"""Equalization changes nothing in float; bias correction raises the SQNR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.contracts.samples import Samples
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.calibration.sqnr import CEILING_DB, decibels, tensor_sqnr
from quantize.int8.bias_correction import correct_biases
from quantize.int8.equalize import equalize
from quantize.int8.int8 import Int8Settings
from quantize.int8.qdq import quantized_graph, weight_of
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.quantize_builds import fresh_build, training_samples

WIDTH = 16


def uneven_network(between: str = "Relu") -> onnx.ModelProto:
    """Return two matrix layers whose channels differ by a factor of ten thousand, as after folding a batch norm."""
    generator = np.random.default_rng(5)
    uneven = np.logspace(-2, 2, WIDTH).astype(np.float32)
    weights = {
        "w1": generator.normal(size=(WIDTH, WIDTH)).astype(np.float32) * uneven,
        "b1": generator.normal(size=WIDTH).astype(np.float32) * uneven,
        "w2": generator.normal(size=(WIDTH, WIDTH)).astype(np.float32) / uneven[:, None],
        "b2": generator.normal(size=WIDTH).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
            helper.make_node(between, ["h"], ["r"], name="between"),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="second"),
        ],
        "uneven",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH])],
        [numpy_helper.from_array(numbers, name) for name, numbers in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def samples(count: int = 200) -> Samples:
    return Samples({"x": np.random.default_rng(2).normal(0.5, 1.0, (count, WIDTH)).astype(np.float32)})


def noise_of(model: onnx.ModelProto) -> float:
    watched = ObservedGraph(model)
    made = quantized_graph(model, tensor_ranges(watched, samples()))
    return tensor_sqnr(watched, ObservedGraph(made), samples())["y"]


def test_equalization_keeps_the_float_outputs() -> None:
    before, after = uneven_network(), uneven_network()
    assert equalize(after, apart=()) == 1
    assert tensor_sqnr(ObservedGraph(before), ObservedGraph(after), samples())["y"] > 100
    assert not np.allclose(weight_of(before, "w1"), weight_of(after, "w1"))


def test_equalization_raises_the_sqnr_of_uneven_layers_by_ten_decibels() -> None:
    equalized = uneven_network()
    equalize(equalized, apart=())
    assert noise_of(equalized) > noise_of(uneven_network()) + 10


@pytest.mark.parametrize(("between", "apart"), [("Tanh", ()), ("Relu", ("second",))], ids=["not linear", "across the cut"])
def test_pairs_across_the_cut_are_not_equalized(between: str, apart: tuple[str, ...]) -> None:
    model = uneven_network(between)
    assert equalize(model, apart=apart) == 0
    assert model == uneven_network(between)


def test_bias_correction_never_lowers_the_sqnr_and_returns_the_original_biases() -> None:
    model = uneven_network()
    watched = ObservedGraph(uneven_network())
    ranges = {name: (low * 0.6, high * 0.6) for name, (low, high) in tensor_ranges(watched, samples()).items()}
    before = tensor_sqnr(watched, ObservedGraph(quantized_graph(model, ranges)), samples())
    changed = correct_biases(model, watched, ranges, samples())
    after = tensor_sqnr(watched, ObservedGraph(quantized_graph(model, ranges)), samples())
    assert set(changed) == {"first", "second"}
    assert after["y"] > before["y"]


def test_decibels_are_ten_per_factor_of_ten() -> None:
    assert decibels(1000.0, 1.0) == pytest.approx(30.0)
    assert decibels(5.0, 0.0) == CEILING_DB


def test_an_equalized_variant_of_a_real_network_keeps_its_accuracy(tmp_path: Path) -> None:
    options = QuantizeOptions(scheme=Scheme.INT8, samples=training_samples(), int8=Int8Settings(equalize=True), max_drop=0.01)
    assert quantize(fresh_build(tmp_path / "build"), options).variant.config.measured is not None
