"""Collecting values: exact for all batch sizes, in constant memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.contracts.samples import Samples
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.calibration.histograms import collect_histograms, collect_ranges
from quantize.calibration.thresholds import Calibration


def small_network(batch: int | str = "N") -> onnx.ModelProto:
    """Return x -> Conv (channels times 1 and -2) -> Relu."""
    weight = np.array([1.0, -2.0], np.float32).reshape(2, 1, 1, 1)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "weight"], ["conv"], name="conv"),
            helper.make_node("Relu", ["conv"], ["y"], name="relu"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2, 8, 8])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def samples(count: int) -> Samples:
    values: Any = np.random.default_rng(1).uniform(-1, 3, size=(count, 1, 8, 8))
    return Samples({"x": values.astype(np.float32)})


@pytest.mark.parametrize("batch", ["N", 1, 7])
def test_ranges_are_exact_for_all_batch_sizes(batch: int | str) -> None:
    given = samples(45)
    low, high = float(given.inputs["x"].min()), float(given.inputs["x"].max())
    found = collect_ranges(ObservedGraph(small_network(batch)), given)
    assert found == {"x": (low, high), "conv": (-2 * high, max(high, -2 * low)), "y": (0.0, max(high, -2 * low))}


def test_a_histogram_counts_every_value_once() -> None:
    given = samples(45)
    graph = ObservedGraph(small_network())
    found = collect_histograms(graph, given, collect_ranges(graph, given))["x"]
    assert found.counts.sum() == given.inputs["x"].size
    expected, _ = np.histogram(given.inputs["x"], len(found.counts), (found.low, found.high))
    assert np.abs(found.counts - expected).sum() <= 4  # a value on an edge may fall to either side


def test_infinite_values_do_not_make_a_range_infinite() -> None:
    given = samples(8)
    given.inputs["x"][3, 0, 2, 2] = -np.inf
    low, high = collect_ranges(ObservedGraph(small_network()), given)["x"]
    assert np.isfinite([low, high]).all()


def peak_bytes(count: int) -> int:
    given, graph = samples(count), ObservedGraph(small_network())
    tracemalloc.start()
    tensor_ranges(graph, given, Calibration.MSE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_five_thousand_samples_need_no_more_memory_than_fifty() -> None:
    assert peak_bytes(5000) < 1.2 * peak_bytes(50)
