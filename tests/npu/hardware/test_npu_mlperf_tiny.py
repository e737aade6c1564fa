"""The networks of MLPerf Tiny run on the NPU whole, and the RTL has the functional model's bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from accel.npu.compiler.partition import compile_partitioned
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import NpuProfile, find_profile
from benchmarks.networks.mlperf_tiny import DS_CNN, MOBILENET, NETWORKS, WAKE_WORD, TinyNetwork, onnx_network
from benchmarks.networks.npu_networks import INPUT, quantize, reference

SMALL, STREAMED = find_profile("npu-sim-8-large"), find_profile("npu-sim-8-sdram")


@pytest.mark.parametrize(
    ("tiny", "profile"),
    [
        pytest.param(DS_CNN, SMALL, id="DS-CNN"),
        pytest.param(WAKE_WORD, SMALL, id="streaming wake word"),
        pytest.param(MOBILENET, STREAMED, id="MobileNetV1", marks=pytest.mark.slow),
    ],
)
def test_every_layer_with_weights_runs_on_the_npu_and_the_rtl_has_the_same_bits(
    tiny: TinyNetwork, profile: NpuProfile, require: Callable[[str], Path]
) -> None:
    require("verilator")
    network, model = onnx_network(tiny)
    images = network.images(2)
    quantized = quantize(model, images)
    compiled = compile_partitioned(quantized, profile)
    assert [row.operator for row in compiled.on_host] == ["Softmax"]
    simulator = RtlSimulator(profile)
    ((name, found),) = Session(simulator, compiled.program).run({INPUT: images}).items()
    np.testing.assert_array_equal(found, Session(FunctionalModel(profile), compiled.program).run({INPUT: images})[name])
    assert simulator.counters == estimate(compiled.program, profile).counters
    simulator.close()
    quantized.graph.output.append(onnx.ValueInfoProto(name=name))
    (expected,) = reference(quantized, images, [name])
    assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(("tiny", "macs"), [(DS_CNN, 2_656_768), (MOBILENET, 7_489_664)], ids=["DS-CNN", "MobileNetV1"])
def test_the_networks_have_the_published_numbers_of_multiplications(tiny: TinyNetwork, macs: int) -> None:
    _, model = onnx_network(tiny)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.value_info}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    products = [int(np.prod(weights[node.input[1]])) * int(np.prod(shapes[node.output[0]][2:])) for node in layers]
    assert sum(products) == macs


@pytest.mark.parametrize("tiny", NETWORKS, ids=lambda tiny: tiny.name)
def test_the_stand_in_samples_have_the_shape_and_the_classes_of_the_network(tiny: TinyNetwork) -> None:
    images, labels = tiny.samples()
    assert images.shape == (1797, *tiny.shape)
    assert set(labels) <= set(range(tiny.classes))
    assert np.abs(images.mean(axis=(1, 2, 3))).min() > 0
