"""Compare compiled networks with ONNX Runtime and the functional model with the RTL; unsupported operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from accel.npu.compiler.compile import Compiled, compile_model
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import NpuProfile, find_profile
from benchmarks.networks.npu_networks import INPUT, Float, Network, quantize, reference
from edgewright.errors import SamplesError

PROFILE = find_profile("npu-sim-4")
WIDE = find_profile("colorlight-i9")
NetworkOf = Callable[[Network], str]


def residual_network(network: Network) -> str:
    """A residual block, a depthwise convolution with Relu6 and strides, a downsampling block, an average, a classifier."""
    x = network.add("Relu", network.conv(INPUT, 3, 10, pads=[1, 1, 1, 1]))
    y = network.conv(network.add("Relu", network.conv(x, 10, 10, pads=[1, 1, 1, 1])), 10, 10, pads=[1, 1, 1, 1])
    x = network.add("Relu", network.add("Add", x, y))
    limits = [network.constant(np.array(limit, np.float32)) for limit in (0, 6)]
    x = network.add("Clip", network.conv(x, 10, 10, pads=[1, 1, 1, 1], strides=[2, 2], group=10), *limits)
    left = network.conv(x, 10, 14, (1, 1), strides=[2, 2])
    right = network.conv(x, 10, 14, pads=[1, 1, 1, 1], strides=[2, 2])
    x = network.add("GlobalAveragePool", network.add("Relu", network.add("Add", left, right)))
    return network.gemm(network.add("Flatten", x), 14, 10)


def inverted_residuals(network: Network) -> str:
    """MobileNetV2 blocks (expand, depthwise, project): with stride 2, with an addition, with a 5x5 kernel."""
    limits = [network.constant(np.array(limit, np.float32)) for limit in (0, 6)]
    x = network.add("Clip", network.conv(INPUT, 3, 6, pads=[1, 1, 1, 1]), *limits)
    for inputs, outputs, step, kernel in ((6, 8, 2, 3), (8, 8, 1, 3), (8, 12, 1, 5)):
        wide, pads = 3 * inputs, [kernel // 2] * 4
        y = network.add("Clip", network.conv(x, inputs, wide, (1, 1)), *limits)
        y = network.conv(y, wide, wide, (kernel, kernel), pads=pads, strides=[step, step], group=wide)
        y = network.conv(network.add("Clip", y, *limits), wide, outputs, (1, 1))
        x = network.add("Add", x, y) if inputs == outputs else y
    x = network.add("GlobalAveragePool", network.add("Clip", network.conv(x, 12, 24, (1, 1)), *limits))
    return network.gemm(network.add("Flatten", x), 24, 10)


def branches(network: Network) -> str:
    """A stem with separate padding, as Keras writes it, parallel branches that are concatenated, and an addition."""
    x = network.add("Relu", network.conv(bordered(network, INPUT, (1, 1, 2, 0)), 3, 16))
    pooled = network.add("MaxPool", bordered(network, x, (0, 1, 1, 0)), kernel_shape=[2, 2])
    x = network.add("Concat", pooled, network.add("Relu", network.conv(x, 16, 6, pads=[1, 1, 1, 1])), axis=1)
    x = network.add("Add", network.conv(x, 22, 22, (1, 1)), x)
    return network.gemm(network.add("Flatten", network.add("GlobalAveragePool", x)), 22, 10)


WHOLE: dict[str, NetworkOf] = {"residual": residual_network, "MobileNetV2": inverted_residuals, "branches": branches}


def bordered(network: Network, source: str, around: tuple[int, int, int, int], value: float | None = None) -> str:
    """Pad rows and columns: top, left, bottom, right."""
    top, left, bottom, right = around
    pads = network.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    values = [] if value is None else [network.constant(np.array(value, np.float32))]
    return network.add("Pad", source, pads, *values)


def padded_twice(network: Network) -> str:
    """A Pad with two readers: it could be merged into the pooling, but the addition needs the padded plane."""
    x = bordered(network, network.conv(INPUT, 3, 5), (1, 1, 1, 1), 0.3)
    return network.add("Add", network.add("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), x)


def side_by_side(network: Network) -> str:
    """A Concat with two additions: one of an earlier tensor, one of a later tensor."""
    before = network.conv(INPUT, 3, 21, (1, 1))
    parts = network.conv(INPUT, 3, 8, (1, 1)), network.conv(INPUT, 3, 8, pads=[1, 1, 1, 1]), network.conv(INPUT, 3, 5, (1, 1))
    x = network.add("Concat", *parts, axis=1)
    after = network.conv(x, 21, 21, (1, 1))
    return network.add("Add", network.add("Add", before, x), network.add("Add", after, x))


def depthwise(network: Network, kernel: int, **attributes: Any) -> str:
    return network.conv(network.conv(INPUT, 3, 6, (1, 1)), 6, 6, (kernel, kernel), group=6, **attributes)


SMALL: dict[str, NetworkOf] = {
    "conv 1x1": lambda n: n.conv(INPUT, 3, 5, (1, 1)),
    "conv 3x3 same": lambda n: n.conv(INPUT, 3, 5, pads=[1, 1, 1, 1]),
    "conv 5x5 uneven padding": lambda n: n.conv(INPUT, 3, 6, (5, 5), pads=[2, 0, 1, 3], strides=[2, 1]),
    "conv 7x7 stride 2": lambda n: n.conv(INPUT, 3, 9, (7, 7), pads=[3, 3, 3, 3], strides=[2, 2]),
    "conv dilated": lambda n: n.conv(INPUT, 3, 4, pads=[2, 2, 2, 2], dilations=[2, 2]),
    "conv same upper": lambda n: n.conv(INPUT, 3, 4, strides=[2, 2], auto_pad="SAME_UPPER"),
    "conv in groups": lambda n: n.conv(n.conv(INPUT, 3, 6, (1, 1)), 6, 4, group=2),
    "depthwise 3x3": lambda n: depthwise(n, 3, pads=[1, 1, 1, 1]),
    "depthwise 3x3 step 2 uneven padding": lambda n: depthwise(n, 3, pads=[0, 1, 2, 0], strides=[2, 2]),
    "depthwise 5x5 steps 1 and 2": lambda n: depthwise(n, 5, pads=[2, 2, 2, 2], strides=[1, 2]),
    "depthwise 7x7": lambda n: depthwise(n, 7, pads=[3, 3, 3, 3]),
    "depthwise 7x7 steps 2 and 3": lambda n: depthwise(n, 7, pads=[3, 3, 3, 3], strides=[2, 3]),
    "depthwise 1x1 step 2": lambda n: depthwise(n, 1, strides=[2, 2]),
    "depthwise 3x3 dilated": lambda n: depthwise(n, 3, pads=[2, 2, 2, 2], dilations=[2, 2]),
    "depthwise 1x5": lambda n: n.conv(n.conv(INPUT, 3, 6, (1, 1)), 6, 6, (1, 5), group=6),
    "max pool": lambda n: n.add("MaxPool", n.conv(INPUT, 3, 5), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool": lambda n: n.add("AveragePool", n.conv(INPUT, 3, 5), kernel_shape=[2, 2], strides=[2, 2]),
    "average of a plane with a stride beyond it": lambda n: n.add(
        "AveragePool", n.conv(INPUT, 3, 5), kernel_shape=[7, 9], strides=[20, 20]
    ),
    "average pool with its padding": lambda n: n.add(
        "AveragePool", n.conv(INPUT, 3, 5), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "maximum of the whole plane": lambda n: n.add("MaxPool", n.conv(INPUT, 3, 5), kernel_shape=[7, 9]),
    "average of the whole plane": lambda n: n.add("GlobalAveragePool", n.conv(INPUT, 3, 5)),
    "add of the input": lambda n: n.add("Add", INPUT, n.conv(INPUT, 3, 3, pads=[1, 1, 1, 1])),
    "add of a tensor that is used again": lambda n: used_twice(n),
    "pad": lambda n: n.conv(bordered(n, n.conv(INPUT, 3, 5), (1, 2, 3, 0)), 5, 4, (2, 2)),
    "pad with a number": lambda n: n.add("MaxPool", bordered(n, n.conv(INPUT, 3, 5), (0, 1, 1, 2), 0.7), kernel_shape=[2, 2]),
    "pad before an average": lambda n: n.add(
        "AveragePool", bordered(n, n.conv(INPUT, 3, 5), (2, 1, 1, 2), -0.4), kernel_shape=[3, 2], strides=[2, 1]
    ),
    "pad that two layers read": lambda n: padded_twice(n),
    "concat": lambda n: side_by_side(n),
    "batch normalization, not fused": lambda n: n.conv(normalized(n, n.conv(INPUT, 3, 5), 5), 5, 4, (1, 1)),
    "gemm over planes": lambda n: n.gemm(n.add("Flatten", n.conv(INPUT, 3, 4, strides=[3, 3])), 4 * 3 * 3, 7),
}


def normalized(network: Network, source: str, channels: int) -> str:
    """An unfused batch normalization; one channel has a negative gain and one has gain 0."""
    gamma = np.linspace(-1, 1, channels).astype(np.float32)
    others = (network.generator.uniform(low, 1, channels).astype(np.float32) for low in (-1, -1, 0.1))
    x = network.add("BatchNormalization", source, *(network.constant(values) for values in (gamma, *others)))
    return network.add("Relu", x)


def used_twice(network: Network) -> str:
    first = network.conv(INPUT, 3, 5, (1, 1))
    second = network.conv(first, 5, 5, (1, 1))
    return network.add("Add", network.add("Add", first, second), second)


def compiled(build: NetworkOf, profile: NpuProfile, count: int = 40) -> tuple[Compiled, onnx.ModelProto, Float]:
    network = Network(3, 9, 11) if build is not SMALL["gemm over planes"] else Network(3, 9, 9)
    model = network.model(build(network))
    images = network.images(count)
    quantized = quantize(model, images)
    return compile_model(quantized, profile), quantized, images


def steps_apart(result: Compiled, quantized: onnx.ModelProto, images: Float, profile: NpuProfile) -> Float:
    """Return how many steps of the output's scale the functional model is from ONNX Runtime."""
    place = result.program.description.outputs[0]
    ours = Session(FunctionalModel(profile), result.program).run({INPUT: images})[place.name]
    final = quantized.graph.output[0].name
    assert place.name == final
    (theirs,) = reference(quantized, images, [final])
    apart: Float = np.rint((ours - theirs) / place.scale)
    return apart


@pytest.mark.parametrize("profile", [PROFILE, WIDE], ids=lambda profile: profile.name)
@pytest.mark.parametrize("name", SMALL)
def test_n3_n13_each_operator_is_within_one_step_of_onnxruntime_and_almost_always_equal(name: str, profile: NpuProfile) -> None:
    # Not always equal: ONNX Runtime sums and divides in float32, which rounds ties in either direction. An average over 4
    # positions is a tie in one of four cases, a convolution almost never.
    result, quantized, images = compiled(SMALL[name], profile)
    apart = steps_apart(result, quantized, images, profile)
    assert not result.on_host
    assert np.abs(apart).max() <= 1
    assert (apart != 0).mean() < (0.15 if "average" in name else 0.005)


@pytest.mark.parametrize("network", WHOLE)
@pytest.mark.parametrize("profile_name", ["npu-sim-4", "npu-sim-8", "colorlight-i9", "ulx3s-85f"])
def test_n9_a_whole_network_agrees_with_onnxruntime_in_99_of_100_labels(profile_name: str, network: str) -> None:
    profile = find_profile(profile_name)
    result, quantized, images = compiled(WHOLE[network], profile, count=200)
    place = result.program.description.outputs[0]
    ours = Session(FunctionalModel(profile), result.program).run({INPUT: images})[place.name]
    (theirs,) = reference(quantized, images, [place.name])
    assert not result.on_host
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= 0.99


@pytest.mark.parametrize("network", WHOLE)
@pytest.mark.parametrize("profile_name", ["npu-sim-4", "npu-sim-8-paired"])
def test_n94_n95_a_whole_network_has_the_same_bits_and_the_predicted_cycles_in_the_rtl(
    profile_name: str, network: str, require: Callable[[str], Path]
) -> None:
    require("verilator")
    profile = find_profile(profile_name)
    result, _, images = compiled(WHOLE[network], profile)
    rtl_simulator = RtlSimulator(profile)
    name = result.program.description.outputs[0].name
    rtl = Session(rtl_simulator, result.program).run({INPUT: images[:3]})[name]
    np.testing.assert_array_equal(rtl, Session(FunctionalModel(profile), result.program).run({INPUT: images[:3]})[name])
    assert rtl_simulator.counters == estimate(result.program, profile).counters
    rtl_simulator.close()


def test_n52_compiling_twice_gives_the_same_bytes() -> None:
    network = Network(3, 9, 11)
    model = network.model(residual_network(network))
    quantized = quantize(model, network.images(4))
    assert compile_model(quantized, PROFILE).program.to_bytes() == compile_model(quantized, PROFILE).program.to_bytes()


def test_n42_a_folded_input_makes_fewer_visits() -> None:
    result, _, _ = compiled(SMALL["conv 3x3 same"], WIDE)
    assert result.program.description.inputs[0].fold is not None
    assert estimate(result.program, WIDE).counters.visits == 2 * 3 * 9 * 11  # 9 of 3x3 channels need two blocks of 8


@pytest.mark.parametrize(("kernel", "step"), [(3, 1), (5, 2)])
def test_n27_the_depthwise_unit_gives_the_bits_of_diagonal_matrices_in_less_than_half_the_cycles(kernel: int, step: int) -> None:
    pads = [kernel // 2] * 4
    profile = replace(WIDE, vector_lanes=4)  # with 2 lanes the vector unit would be the bottleneck of both
    _, quantized, images = compiled(lambda network: depthwise(network, kernel, pads=pads, strides=[step, step]), profile)
    fast, slow = (compile_model(quantized, profile, depthwise_unit=used).program for used in (True, False))
    (fast_result,), (slow_result,) = (
        Session(FunctionalModel(profile), program).run({INPUT: images}).values() for program in (fast, slow)
    )
    np.testing.assert_array_equal(fast_result, slow_result)
    first = next(node.output[0] for node in quantized.graph.node if node.op_type == "Conv")
    before = estimate(compile_model(quantized, profile, {first}).program, profile).counters.cycles
    fast_cycles, slow_cycles = (estimate(program, profile).counters.cycles - before for program in (fast, slow))
    assert 0 < fast_cycles < slow_cycles / 2


def test_layer_costs_add_up_to_the_whole_run() -> None:
    result, _, _ = compiled(residual_network, PROFILE)
    cost = estimate(result.program, PROFILE)
    assert sum(layer.cycles for layer in cost.layers) == cost.counters.cycles
    names = [name for layer in cost.layers for name in layer.name.split("+")]
    assert len(names) == len(set(names)) == 8  # six convolutions, an average, a classifier; layers that share banks are one entry


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        pytest.param(
            lambda n: n.add("Concat", n.conv(INPUT, 3, 6), n.conv(INPUT, 3, 5), axis=1),
            "its tensors begin at channels 0, 6, but each must begin at a multiple of 4",
            id="concat in the middle of a vector",
        ),
        pytest.param(
            lambda n: n.add("Concat", n.conv(INPUT, 3, 4), n.conv(INPUT, 3, 4), axis=2),
            "the NPU concatenates channels only",
            id="concat of rows",
        ),
        pytest.param(
            lambda n: bordered(n, n.conv(INPUT, 3, 4), (0, -1, 0, 0)),
            "the NPU pads rows and columns by 0 or more, not by [0, 0, 0, -1, 0, 0, 0, 0]",
            id="pad that crops",
        ),
    ],
)
def test_n45_an_operator_that_the_layout_does_not_support_stays_on_the_host(build: NetworkOf, reason: str) -> None:
    result, _, _ = compiled(build, PROFILE, count=4)
    assert [row.reason for row in result.on_host] == [reason]


def test_n28_a_plane_larger_than_the_largest_kernel_is_averaged_in_pieces() -> None:
    network = Network(4, 70, 130)
    quantized = quantize(network.model(network.add("GlobalAveragePool", INPUT)), images := network.images(2))
    roomy = replace(PROFILE, activation_vectors=1 << 14)
    result = compile_model(quantized, roomy)
    assert not result.on_host
    assert np.abs(steps_apart(result, quantized, images, roomy)).max() <= 1


def test_n45_a_pad_before_a_pooling_is_merged_into_the_pooling() -> None:
    result, _, _ = compiled(SMALL["pad with a number"], WIDE)
    assert [layer.operator for layer in result.program.description.layers] == ["Conv", "MaxPool"]
    assert [row.operator for row in result.coverage if row.on_npu] == ["Conv", "Pad", "MaxPool"]


def test_n46_a_batch_normalization_has_weights_of_127_so_only_its_bias_is_rounded() -> None:
    result, _, _ = compiled(SMALL["batch normalization, not fused"], WIDE)
    assert not result.on_host
    assert {-127, 0, 127} <= set(np.unique(result.program.weights))


def test_a_product_of_two_tensors_stays_on_the_host() -> None:
    network = Network(3, 9, 11)
    product = network.add("Mul", network.conv(INPUT, 3, 4), network.conv(INPUT, 3, 4))
    result = compile_model(quantize(network.model(product), network.images(4)), PROFILE)
    assert [(row.operator, row.reason) for row in result.on_host] == [("Mul", "the NPU does not support Mul of two tensors")]


def test_operators_after_the_cut_are_the_head_and_stay_on_the_host() -> None:
    network = Network(3, 9, 11)
    features = network.add("Relu", network.conv(INPUT, 3, 4))
    model = network.model(network.conv(features, 4, 4))
    result = compile_model(quantize(model, network.images(4)), PROFILE, [features])
    assert [(row.operator, row.reason) for row in result.on_host] == [("Conv", "it is part of the head, which stays on the host")]


def test_an_unsupported_operator_stays_on_the_host_with_its_reason_and_the_others_are_in_two_segments() -> None:
    network = Network(3, 9, 11)
    x = network.add("Hardmax", network.conv(INPUT, 3, 4))
    model = network.model(network.add("Softmax", network.conv(x, 4, 4)))
    result = compile_model(quantize(model, network.images(4)), PROFILE)
    assert [(row.layer, row.operator, row.reason) for row in result.on_host] == [
        ("hardmax_1", "Hardmax", "the NPU does not support Hardmax"),
        ("softmax_3", "Softmax", "the NPU does not support Softmax"),
    ]
    names = [place.name for place in result.program.description.outputs]
    assert names == ["conv_0_DequantizeLinear_Output", "conv_2_DequantizeLinear_Output"]


def test_samples_of_another_shape_are_refused_with_both_shapes() -> None:
    result, _, _ = compiled(SMALL["conv 1x1"], PROFILE)
    with pytest.raises(SamplesError, match=r"^input image must have shape \[N, 3, 9, 11\], not \[2, 3, 4, 4\]$"):
        Session(FunctionalModel(PROFILE), result.program).run({INPUT: np.zeros((2, 3, 4, 4), np.float32)})
    with pytest.raises(SamplesError, match=r"^the inputs must have image, but they have x$"):
        Session(FunctionalModel(PROFILE), result.program).run({"x": np.zeros((2, 3, 4, 4), np.float32)})


@pytest.mark.parametrize("images", [np.zeros((0, 3, 9, 11), np.float32), np.full((1, 3, 9, 11), np.nan, np.float32)])
def test_empty_samples_and_nan_are_refused(images: Float) -> None:
    result, _, _ = compiled(SMALL["conv 1x1"], PROFILE)
    with pytest.raises(SamplesError, match=r"^input image must have at least one sample, and no value may be NaN$"):
        Session(FunctionalModel(PROFILE), result.program).run({INPUT: images})
