"""Number format mxint8: shifts in the array and blocks in the compiler, against real arithmetic and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from accel.npu import isa
from accel.npu.arithmetic import Int8
from accel.npu.compiler.compile import compile_model
from accel.npu.lowering.layers import ConvolutionLayer
from accel.npu.lowering.lower import lower
from accel.npu.lowering.microscaling import BLOCK, FEWEST_CHANNELS, LARGEST_SUM, shift_weights
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import find_profile
from benchmarks.networks.npu_networks import INPUT, Float, Network, quantize, reference
from edgewright.errors import ModelError, ProfileError
from tests.support.random_programs import make_program

PROFILE = find_profile("npu-sim-8-mx")
SHAPE = isa.Shape(height=1, width=16, rows=1, columns=16, row_pitch=16)


@pytest.fixture(scope="module", params=["functional", "rtl"])
def machine(request: pytest.FixtureRequest, require: Callable[[str], Path]) -> Iterator[FunctionalModel | RtlSimulator]:
    if request.param == "functional":
        yield FunctionalModel(PROFILE)
        return
    require("verilator")
    rtl_simulator = RtlSimulator(PROFILE)
    yield rtl_simulator
    rtl_simulator.close()


def test_n141_n142_a_pass_adds_the_product_of_each_row_times_a_power_of_two(machine: FunctionalModel | RtlSimulator) -> None:
    generator = np.random.default_rng(0)
    memory = generator.integers(-128, 128, (80, PROFILE.columns)).astype(np.int8)
    weights = generator.integers(-127, 128, (2, PROFILE.rows, PROFILE.columns)).astype(np.int8)
    shifts = generator.integers(0, 16, (2, PROFILE.rows)).astype(np.int8)
    rows = np.concatenate([shifts[:1], weights[0], shifts[1:] | 0x70, weights[1]])  # the upper bits are ignored
    loads = [isa.LoadW(address=at, rows=PROFILE.rows) for at in (0, 1 + PROFILE.rows)]
    passes = [isa.Gemm(base=0, swap=1), isa.Gemm(base=16, swap=1, accumulate=1)]
    vector = isa.Vec(accumulator=0, count=16, destination=64, parameters=0)
    instructions = [loads[0], SHAPE, passes[0], loads[1], passes[1], isa.Sync(array=1), vector]
    machine.load(make_program(PROFILE, instructions, rows, parameters(shift=30 + 22)))
    result = machine.execute({0: memory[None]}, [(64, 16)])[0][0]
    real = [memory[at : at + 16].astype(float) @ np.ldexp(weights[n].T.astype(float), shifts[n]) for n, at in enumerate((0, 16))]
    np.testing.assert_array_equal(result, np.clip(np.rint(sum(real) / 2.0**22), -128, 127))
    assert len(np.unique(result)) > 20


def test_n142_a_depthwise_pass_ignores_shifts(machine: FunctionalModel | RtlSimulator) -> None:
    memory = np.random.default_rng(1).integers(-128, 128, (80, PROFILE.columns)).astype(np.int8)
    rows = np.concatenate([np.full((1, PROFILE.columns), 5), np.ones((PROFILE.rows, PROFILE.columns))]).astype(np.int8)
    depthwise = isa.Dw(base=0, tap_row_pitch=16, tap_column_pitch=1, swap=1)
    finish = [isa.Sync(array=1), isa.Vec(accumulator=0, count=16, destination=64, parameters=0)]
    instructions = [isa.LoadW(address=0, rows=PROFILE.rows), SHAPE, depthwise, *finish]
    machine.load(make_program(PROFILE, instructions, rows, parameters(shift=30)))
    np.testing.assert_array_equal(machine.execute({0: memory[None]}, [(64, 16)])[0][0], memory[:16])


def parameters(shift: int) -> npt.NDArray[np.int32]:
    row = np.array([0, 1 << 30, shift], np.int32)
    return np.broadcast_to(row, (PROFILE.lane_groups, PROFILE.vector_lanes, 3)).copy()


@given(st.integers(0, 1 << 32), st.integers(0, 18), st.sampled_from([16, 40, 96]))
def test_n143_weights_keep_their_values_except_for_one_rounding_to_the_base(seed: int, spread: int, inputs: int) -> None:
    generator = np.random.default_rng(seed)
    elements = generator.integers(-127, 128, (3, inputs, 2, 1)).astype(np.int8)
    of_blocks = generator.integers(-spread, 1, (3, -(-inputs // BLOCK), 2, 1)).astype(np.int64)
    exponents = np.repeat(of_blocks, BLOCK, axis=1)[:, :inputs]
    shifted = shift_weights(elements, exponents)
    real = np.ldexp(elements.astype(float), exponents.astype(int))
    bases = shifted.bases[:, None, None, None]
    values = np.ldexp(shifted.integers().astype(float), bases.astype(int))
    on_grid = exponents >= bases
    np.testing.assert_array_equal(values[on_grid], real[on_grid])
    np.testing.assert_array_equal(values[~on_grid], (np.rint(np.ldexp(real, -bases.astype(int))) * np.exp2(bases))[~on_grid])
    assert shifted.shifts.min() >= 0
    assert shifted.shifts.max() <= 15


def test_n143_the_base_rises_until_the_sums_fit_an_accumulator() -> None:
    elements = np.full((1, 96, 3, 3), 127, np.int8)
    exponents = np.zeros((1, 96, 3, 3), np.int64)
    exponents[:, :BLOCK] = -12
    shifted = shift_weights(elements, exponents)
    assert shifted.bases.tolist() == [-5]  # 64 x 9 x 127 x 2^5 is under 2^22, twice that is not
    assert LARGEST_SUM / 2 < np.abs(shifted.integers()).sum() < LARGEST_SUM
    assert shifted.shifts[0, :, 0, 0].tolist() == [0, 5, 5]


def test_n144_a_kernel_of_few_channels_has_one_exponent_per_output_channel() -> None:
    elements = np.array([100, 100, 3], np.int8).reshape(1, 3, 1, 1)
    shifted = shift_weights(elements, np.array([-4, -5, -6], np.int64).reshape(1, 3, 1, 1))
    assert shifted.bases.tolist() == [-4]
    assert shifted.elements.ravel().tolist() == [100, 50, 1]
    assert not shifted.shifts.any()


def test_n144_zeros_have_no_exponent() -> None:
    elements = np.zeros((2, 64, 1, 1), np.int8)
    elements[0, 40] = 7
    shifted = shift_weights(elements, np.where(elements, -3, 99).astype(np.int64))
    assert shifted.bases.tolist() == [-3, 0]
    assert shifted.elements[0, 40, 0, 0] == 7


def convolution(network: Network) -> str:
    return network.conv(network.conv(INPUT, 3, 48, (1, 1)), 48, 48, pads=[1, 1, 1, 1], strides=[2, 1])


def fully_connected(network: Network) -> str:
    x = network.add("MaxPool", network.conv(INPUT, 3, 40, (1, 1)), kernel_shape=[6, 7])
    return network.gemm(network.add("Flatten", x), 40, 10)


def depthwise(network: Network) -> str:
    return network.conv(network.conv(INPUT, 3, 48, (1, 1)), 48, 48, pads=[1, 1, 1, 1], group=48)


def residual_block(network: Network) -> str:
    x = network.add("Relu", network.conv(INPUT, 3, 48, (1, 1)))
    y = network.add("Relu", network.conv(x, 48, 48, pads=[1, 1, 1, 1], group=48))
    x = network.add("Add", x, network.conv(y, 48, 48, pads=[1, 1, 1, 1]))
    x = network.add("GlobalAveragePool", network.add("Relu", network.conv(x, 48, 64, (1, 1))))
    return network.gemm(network.add("Flatten", x), 64, 10)


def uneven(build: Callable[[Network], str]) -> tuple[onnx.ModelProto, Float]:
    """Return a network whose weights are small for all input channels but the first 32, and images for it."""
    network = Network(3, 6, 7)
    result = build(network)
    for tensor in network.constants:
        values = numpy_helper.to_array(tensor).copy()
        inputs = values if values.ndim == 2 else np.moveaxis(values, 1, 0) if values.ndim == 4 else values[:0]
        inputs[BLOCK:] /= 50
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return network.model(result), network.images(60)


def in_blocks(model: onnx.ModelProto, images: Float) -> onnx.ModelProto:
    """Quantize the activations, and the weights in blocks of 32 along the input channels, as scheme mxint8 writes them."""
    quantized = quantize(model, images)
    quantized.opset_import[0].version, quantized.ir_version = 21, 10
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    quantized.graph.initializer.append(two)
    for place, node in reversed(list(enumerate(quantized.graph.node))):
        name = node.input[0].removesuffix("_quantized")
        if node.op_type != "DequantizeLinear" or name not in weights or weights[name].ndim < 2:
            continue
        shape = weights[name].shape
        axis = 1 if len(shape) == 4 else 0
        few = len(shape) == 4 and shape[1] < FEWEST_CHANNELS  # then a block extends over channels and window
        elements, exponents = encode(weights[name].reshape(shape[0], -1) if few else weights[name], axis)
        parts: dict[str, npt.NDArray[Any]] = {"elements": elements, "exponents": exponents, "shape": np.array(shape)}
        quantized.graph.initializer.extend(numpy_helper.from_array(part, f"{name}.{key}") for key, part in parts.items())
        elements_and_scales, real = [f"{name}.elements", f"{name}.scales"], [f"{name}.real"]
        nodes = [
            helper.make_node("Cast", [f"{name}.exponents"], [f"{name}.powers"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Pow", ["two", f"{name}.powers"], [f"{name}.scales"]),
            helper.make_node("DequantizeLinear", elements_and_scales, real, axis=axis, block_size=BLOCK),
            helper.make_node("Reshape", [*real, f"{name}.shape"], list(node.output)),
        ]
        quantized.graph.node.remove(node)
        for offset, replacement in enumerate(nodes):
            quantized.graph.node.insert(place + offset, replacement)
    return quantized


def encode(weights: Float, axis: int) -> tuple[Int8, Int8]:
    """Encode weights as MXINT8: the exponent of a block is that of its largest value, elements have 6 fraction bits."""
    count = -(-weights.shape[axis] // BLOCK)
    padding = [(0, count * BLOCK - weights.shape[axis]) if place == axis else (0, 0) for place in range(weights.ndim)]
    blocks = np.stack(np.split(np.pad(weights, padding), count, axis=axis))
    exponents = np.floor(np.log2(np.abs(blocks).max(axis=axis + 1))) - 6
    wide = np.repeat(np.moveaxis(exponents, 0, axis), BLOCK, axis=axis).take(range(weights.shape[axis]), axis=axis)
    elements = np.clip(np.rint(weights / np.exp2(wide)), -127, 127)
    return elements.astype(np.int8), np.moveaxis(exponents, 0, axis).astype(np.int8)


@pytest.mark.parametrize(("build", "largest_shift"), [(convolution, 5), (fully_connected, 5), (depthwise, 0)])
def test_n140_a_layer_in_blocks_is_within_one_step_of_onnxruntime_and_mostly_equal(
    build: Callable[[Network], str], largest_shift: int
) -> None:
    model, images = uneven(build)
    blocked = in_blocks(model, images)
    result = compile_model(blocked, PROFILE)
    (place,) = result.program.description.outputs
    ours = Session(FunctionalModel(PROFILE), result.program).run({INPUT: images})[place.name]
    (theirs,) = reference(blocked, images, [place.name])
    steps = np.rint((ours - theirs) / place.scale)
    layers = [layer for layer in lower(blocked).layers if isinstance(layer, ConvolutionLayer)]
    assert max(int(layer.shifts.max()) for layer in layers if layer.shifts is not None) >= largest_shift
    assert not result.on_host
    assert np.abs(steps).max() <= 1
    assert (steps != 0).mean() < 0.02  # the biases of the graph are finer than the sums of the NPU


def test_n140_n145_a_network_in_blocks_has_the_same_bits_and_the_predicted_cycles_in_the_rtl(
    require: Callable[[str], Path],
) -> None:
    require("verilator")
    model, images = uneven(residual_block)
    program = compile_model(in_blocks(model, images), PROFILE).program
    rtl_simulator = RtlSimulator(PROFILE)
    rtl = Session(rtl_simulator, program).run({INPUT: images[:2]})
    functional = Session(FunctionalModel(PROFILE), program).run({INPUT: images[:2]})
    for name, values in rtl.items():
        np.testing.assert_array_equal(values, functional[name])
    assert rtl_simulator.counters == estimate(program, PROFILE).counters
    rtl_simulator.close()


def test_n140_an_npu_for_mxint8_has_no_external_memory() -> None:
    with pytest.raises(ProfileError, match=r"^npu-sim-8-mx: external memory requires number_format int8, not mxint8$"):
        replace(PROFILE, external_memory_mib=32, external_bandwidth_mb_per_s=120)


def test_weights_in_blocks_are_refused_for_an_npu_without_shifts() -> None:
    model, images = uneven(residual_block)
    with pytest.raises(
        ModelError, match=r"^npu-sim-8 supports weights with one scale per output channel, but layer conv_\d has block"
    ):
        compile_model(in_blocks(model, images), find_profile("npu-sim-8"))


def test_blocks_whose_scales_are_not_powers_of_two_stay_on_the_host_with_the_reason() -> None:
    model, images = uneven(residual_block)
    blocked = in_blocks(model, images)
    next(tensor for tensor in blocked.graph.initializer if tensor.name == "two").CopyFrom(
        numpy_helper.from_array(np.array(3, np.float32), "two")
    )
    rows = {row.layer: row for row in compile_model(blocked, PROFILE).coverage}
    assert not rows["conv_0"].on_npu
    assert any(row.on_npu for row in rows.values())
    assert rows["conv_0"].reason.startswith("the scales of its blocks must be powers of two")
