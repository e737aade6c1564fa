"""npu-mxint8: weights in blocks and int8 activations, from a float network to the array's bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper

from accel.npu.compiler.compile import compile_model
from accel.npu.lowering.layers import ConvolutionLayer
from accel.npu.lowering.lower import lower
from accel.npu.lowering.microscaling import BLOCK
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import find_profile
from accel.npu.program import read_program
from benchmarks.networks.npu_networks import INPUT, resnet8
from convert.conversion import ConvertOptions, convert_model
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, write_npz
from edgewright.contracts.variant import LayerKind, Precision
from hardware_profiles.hardware_profile import Int8Types
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.calibration.sqnr import decibels
from quantize.calibration.thresholds import Calibration
from quantize.int8.qdq import QdqFormat, quantized_graph
from quantize.npu.functional import ObservedNpuGraph, PartitionedModel
from quantize.npu.mxint8 import block_weights
from quantize.npu.overflow_guard import guard_accumulators
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import noise
from tests.support.float_builds import float_build, float_model
from tests.support.quantize_builds import functional_evaluation, onnx_file

IMAGES = noise(128, 8, 6, 6, seed=6)
PROFILE = find_profile("npu-sim-8-mx")
SAME = [1, 1, 1, 1]
DETECTORS = 32
"""Channels that rarely fire and have large weights: they fill the first block of 32."""

Array = npt.NDArray[Any]


def detectors(path: Path, channels: int) -> Path:
    """Write a network in which the first 32 of `channels` have weights 32 times as large as the others and rarely fire."""
    weights = {
        "a": 0.4 * noise(channels, 8, 1, 1, seed=1),
        "a_bias": 0.1 * noise(channels, seed=2),
        "b": 0.5 / np.sqrt(channels) * noise(32, channels, 3, 3, seed=3),
        "b_bias": 0.1 * noise(32, seed=4),
        "c": 0.2 * noise(32, 10, seed=5),
        "c_bias": np.zeros(10, np.float32),
    }
    weights["a_bias"][:DETECTORS] -= 3.5
    weights["b"][:, :DETECTORS] *= 32
    nodes = [
        helper.make_node("Conv", ["x", "a", "a_bias"], ["a1"], name="detect"),
        helper.make_node("Relu", ["a1"], ["a2"], name="fire"),
        helper.make_node("Conv", ["a2", "b", "b_bias"], ["b1"], name="rank", pads=SAME),
        helper.make_node("Relu", ["b1"], ["b2"], name="pass"),
        helper.make_node("GlobalAveragePool", ["b2"], ["c1"], name="average"),
        helper.make_node("Flatten", ["c1"], ["c2"], name="flat"),
        helper.make_node("Gemm", ["c2", "c", "c_bias"], ["y"], name="classify"),
    ]
    return onnx_file(path, nodes, weights, given=("x", ["N", 8, 6, 6]), wanted=("y", ["N", 10]))


def in_int8(model: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
    """Quantize a complete graph like npu-int8, without bias correction."""
    ranges = tensor_ranges(ObservedGraph(model), samples, Calibration.MINMAX)
    return quantized_graph(model, ranges, form=QdqFormat(types=Int8Types.S8S8))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> BuildDirectory:
    """Return a build with the variants npu-int8 and npu-mxint8, to which tests may add others."""
    folder = tmp_path_factory.mktemp("detectors")
    samples = folder / "x.npz"
    write_npz(samples, {"x": IMAGES})
    made = convert_model(detectors(folder / "m.onnx", channels=64), folder / "build", ConvertOptions(samples=samples))
    for scheme in (Scheme.NPU_INT8, Scheme.NPU_MXINT8):
        quantize(made, QuantizeOptions(scheme=scheme, samples=samples))
    return made


def edgewright(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_onnxruntime_gives_the_labels_of_the_functional_model(build: BuildDirectory) -> None:
    plain, found = (functional_evaluation(build, name) for name in ("npu-int8", "npu-mxint8"))
    assert plain is not None
    assert found is not None
    assert (found.precision, found.count, found.on_host) == ("npu-mxint8", 128, ("classify (Gemm)",))
    assert (found.agreement_with_onnxruntime or 0.0) >= 0.99
    assert (found.agreement or 0.0) > (plain.agreement or 0.0)


@pytest.mark.parametrize(
    ("channels", "gain_db"),
    [pytest.param(64, 6, id="one of two blocks is small"), pytest.param(256, 13, id="seven of eight are")],
)
def test_channels_with_large_weights_do_not_reduce_the_resolution_of_the_others(
    tmp_path: Path, channels: int, gain_db: float
) -> None:
    images = IMAGES[:24]
    model = onnx.load(detectors(tmp_path / "m.onnx", channels))
    (exact,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images})
    plain = in_int8(model, Samples({"x": images}))
    sqnr_db = []
    for graph in (plain, block_weights(plain, model)):
        found = PartitionedModel(graph).run({"x": images})["y"]
        sqnr_db.append(decibels(float((exact**2).sum()), float(((exact - found) ** 2).sum())))
    assert sqnr_db[1] > sqnr_db[0] + gain_db


def test_from_the_float_network_to_the_bits_of_the_rtl(build: BuildDirectory, require: Callable[[str], Path]) -> None:
    require("verilator")
    result = edgewright("compile", build.path, "--profile", PROFILE.name, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["source"] == "npu-mxint8"
    assert build.variant(PROFILE.name).config.precision is Precision.NPU_MXINT8
    check_rtl(build, "npu-mxint8")


@pytest.mark.slow
def test_the_rtl_has_the_bits_of_all_of_resnet_8_in_blocks(require: Callable[[str], Path]) -> None:
    require("verilator")
    profile = find_profile("npu-sim-8-mx-large")
    network, model = resnet8()
    images = network.images(24)
    graph = block_weights(in_int8(model, Samples({INPUT: images})), model)
    convolutions = [layer for layer in lower(graph).layers if isinstance(layer, ConvolutionLayer)]
    assert sum(layer.shifts is not None and bool(layer.shifts.any()) for layer in convolutions) >= 4
    compiled = compile_model(graph, profile)
    program = compiled.program
    assert not compiled.on_host
    rtl_simulator = RtlSimulator(profile)
    try:
        rtl = Session(rtl_simulator, program).run({INPUT: images[:2]})
        assert rtl_simulator.counters == estimate(program, profile).counters
    finally:
        rtl_simulator.close()
    expected = Session(FunctionalModel(profile), program).run({INPUT: images[:2]})
    np.testing.assert_array_equal(list(rtl.values()), list(expected.values()))


def test_an_npu_for_blocks_computes_npu_int8_too(build: BuildDirectory, require: Callable[[str], Path]) -> None:
    require("verilator")
    result = edgewright("compile", build.path, "--profile", PROFILE.name, "--variant", "npu-int8")
    assert result.exit_code == 0, result.output
    assert build.variant(PROFILE.name).config.precision is Precision.NPU_INT8
    check_rtl(build, "npu-int8")


def check_rtl(build: BuildDirectory, source: str) -> None:
    """Compare the compiled program in the RTL with the functional model of its graph."""
    program = read_program(build.variant(PROFILE.name).file(LayerKind.NPU_PROGRAM).read_bytes())
    (place,) = program.description.outputs
    graph = onnx.load(build.variant(source).file(LayerKind.GRAPH))
    rtl_simulator = RtlSimulator(PROFILE)
    try:
        rtl = Session(rtl_simulator, program).run({"x": IMAGES[:3]})[place.name]
    finally:
        rtl_simulator.close()
    np.testing.assert_array_equal(rtl, ObservedNpuGraph(graph).run({"x": IMAGES[:3]}, [place.name])[place.name])


def test_an_npu_without_the_format_is_refused_with_advice(build: BuildDirectory) -> None:
    result = edgewright("compile", build.path, "--profile", "npu-sim-8-large", "--variant", "npu-mxint8")
    assert result.exit_code == 2
    assert result.stderr == (
        "edgewright: npu-sim-8-large supports weights with one scale per output channel, but layer rank has block scales; "
        "use an NPU of number_format mxint8, or quantize with scheme npu-int8\n"
    )


@pytest.mark.parametrize("profile", [PROFILE.name, "npu-sim-8-large"])
def test_scheme_mxint8_is_refused_with_the_schemes_to_use(build: BuildDirectory, profile: str) -> None:
    quantize(build, QuantizeOptions(scheme=Scheme.MXINT8, samples=None))
    result = edgewright("compile", build.path, "--profile", profile, "--variant", "mxint8")
    assert result.exit_code == 2
    assert result.stderr == (
        "edgewright: the NPU runs quantized graphs, but this one has block-scaled weights and float activations: "
        "quantize it with scheme npu-mxint8 for an NPU of number_format mxint8, with npu-int8 for any\n"
    )


def every_layout(path: Path) -> Path:
    """Write a network with every kind of weight: few channels, depthwise, grouped, a short block, shared, planes, matrices."""
    weights = {
        "few": noise(64, 3, 5, 5, seed=1),
        "offset": noise(64, seed=10),
        "depthwise": noise(64, 1, 3, 3, seed=2),
        "grouped": noise(40, 32, 1, 1, seed=3),
        "short": noise(48, 40, 3, 1, seed=4),
        "planes": noise(48 * 4, 40, seed=5),
        "turned": noise(12, 40, seed=6),
        "narrow": noise(12, 8, seed=7),
        "bias": noise(12, seed=8),
    }
    spread = np.exp2(-(np.arange(48) // 6)).astype(np.float32)
    weights["few"] *= np.exp2(-(np.arange(75) // 8)).astype(np.float32).reshape(3, 5, 5)
    weights["short"] *= spread[None, :40, None, None]
    weights["planes"] *= np.repeat(spread, 4)[:, None]
    nodes = [
        helper.make_node("Conv", ["x", "few", "offset"], ["a"], name="few", strides=[2, 2], pads=SAME),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], name="depthwise", group=64, pads=SAME),
        helper.make_node("Conv", ["b", "grouped"], ["c"], name="grouped", group=2),
        helper.make_node("Conv", ["c", "short"], ["d"], name="short", strides=[2, 2], pads=[1, 0, 1, 0]),
        helper.make_node("Conv", ["c", "short"], ["d2"], name="again", strides=[2, 2], pads=[1, 0, 1, 0]),
        helper.make_node("Add", ["d", "d2"], ["d3"], name="join"),
        helper.make_node("MaxPool", ["d3"], ["e"], name="halve", kernel_shape=[2, 2], strides=[1, 1]),
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "planes"], ["g"], name="planes"),
        helper.make_node("Gemm", ["g", "turned", "bias"], ["h"], name="turned", transB=1),
        helper.make_node("Gemm", ["h", "narrow"], ["y"], name="narrow"),
    ]
    return onnx_file(path, nodes, weights, given=("x", ["N", 3, 11, 11]), wanted=("y", ["N", 8]))


def seen_by_onnxruntime(model: onnx.ModelProto, samples: Samples) -> dict[str, Array]:
    """Return the weights of every layer by its name, as [outputs, …]."""
    nodes = {node.name: node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend([onnx.ValueInfoProto(name=node.input[1]) for node in nodes.values()])
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run([node.input[1] for node in nodes.values()], samples.inputs)
    by_name = dict(zip(nodes, found, strict=True))
    return by_name | {name: by_name[name].T for name in ("planes", "narrow")}


def unit_of(layer: ConvolutionLayer) -> Array:
    """Return the unit of the weights in each output channel."""
    result_scale = layer.stage.addend.main_scale if layer.stage.addend else layer.result.scale
    worth: Array = layer.stage.factors * result_scale / layer.source.scale
    return worth


def integers_of(layer: ConvolutionLayer) -> Array:
    """Return elements x 2^shift."""
    if layer.shifts is None:
        return layer.weights.astype(np.float64)
    shifted: Array = np.ldexp(
        layer.weights.astype(np.float64), np.repeat(layer.shifts, BLOCK, axis=1)[:, : layer.weights.shape[1]]
    )
    return shifted


def held_by_the_array(layers: list[ConvolutionLayer]) -> dict[str, Array]:
    """Return the weights of every layer by its name, as the compiler passes them to the array."""
    found = {layer.name: integers_of(layer) * unit_of(layer)[:, None, None, None] for layer in layers}
    halves = found["grouped"].reshape(2, 20, 2, 32)
    assert not halves[0, :, 1].any()
    return found | {"grouped": np.concatenate([halves[0, :, 0], halves[1, :, 1]])}


def test_the_array_holds_the_same_weights_as_onnxruntime(tmp_path: Path) -> None:
    model, samples = onnx.load(every_layout(tmp_path / "m.onnx")), Samples({"x": noise(32, 3, 11, 11, seed=9)})
    blocked = block_weights(in_int8(model, samples), model)
    layers = [layer for layer in lower(blocked).layers if isinstance(layer, ConvolutionLayer)]
    seen, held = seen_by_onnxruntime(blocked, samples), held_by_the_array(layers)
    assert set(seen) == set(held) == {"few", "depthwise", "grouped", "short", "again", "planes", "turned", "narrow"}
    for name, weights in seen.items():
        np.testing.assert_allclose(held[name].reshape(weights.shape), weights, rtol=1e-7, err_msg=name)
    shifted = [layer.name for layer in layers if layer.shifts is not None and layer.shifts.any()]
    assert shifted == ["short", "again", "planes", "turned"]


def test_biases_are_whole_units_of_the_accumulators(tmp_path: Path) -> None:
    model, samples = onnx.load(every_layout(tmp_path / "m.onnx")), Samples({"x": noise(32, 3, 11, 11, seed=9)})
    blocked = block_weights(in_int8(model, samples), model)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in blocked.graph.initializer}
    biases = {node.name: known[node.input[2]] for node in blocked.graph.node if node.name in ("few", "turned")}
    for layer in (layer for layer in lower(blocked).layers if isinstance(layer, ConvolutionLayer) and layer.name in biases):
        folded = layer.source.zero_point * integers_of(layer).sum(axis=(1, 2, 3))
        held = (layer.stage.bias + folded) * layer.source.scale * unit_of(layer)
        np.testing.assert_allclose(held, biases[layer.name], rtol=1e-7, err_msg=layer.name)


def test_optimized_onnxruntime_computes_the_outputs_of_the_functional_model(tmp_path: Path) -> None:
    model, samples = onnx.load(every_layout(tmp_path / "m.onnx")), Samples({"x": noise(32, 3, 11, 11, seed=9)})
    blocked = block_weights(in_int8(model, samples), model)
    session = onnxruntime.InferenceSession(blocked.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, samples.inputs)
    (step,) = (layer.result.scale for layer in lower(blocked).layers if layer.name == "narrow")
    apart = np.abs(found - PartitionedModel(blocked).run(samples.inputs)["y"]) / step
    assert apart.max() < 1.01
    assert (apart > 0.5).mean() < 0.01


def one_layer(path: Path, kernel: Array, bias: Array) -> onnx.ModelProto:
    nodes = [helper.make_node("Gemm", ["x", "kernel", "bias"], ["y"], name="only")]
    inputs, outputs = kernel.shape
    weights = {"kernel": kernel, "bias": bias}
    return onnx.load(onnx_file(path, nodes, weights, given=("x", ["N", inputs]), wanted=("y", ["N", outputs])))


def test_a_unit_that_died_in_training_does_not_overflow_the_accumulators(tmp_path: Path) -> None:
    kernel = noise(96, 4)
    kernel[:, 2] *= 6e-7
    model, samples = one_layer(tmp_path / "m.onnx", kernel, np.ones(4)), Samples({"x": noise(64, 96, seed=1)})
    found = PartitionedModel(block_weights(in_int8(model, samples), model)).run(samples.inputs)["y"]
    np.testing.assert_allclose(found[:, 2], 1.0, atol=0.2)


@pytest.mark.parametrize(
    "finish",
    [
        pytest.param(lambda quantized, _: guard_accumulators(quantized), id="npu-int8"),
        pytest.param(block_weights, id="npu-mxint8"),
    ],
)
def test_a_pruned_unit_keeps_its_bias_after_large_inputs(
    tmp_path: Path, finish: Callable[[onnx.ModelProto, onnx.ModelProto], onnx.ModelProto]
) -> None:
    kernel = noise(96, 4) / 1000
    kernel[:, 2] = 0
    model, samples = one_layer(tmp_path / "m.onnx", kernel, np.full(4, 0.37)), Samples({"x": 100 * noise(64, 96, seed=1)})
    made = finish(in_int8(model, samples), model)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (step,) = (layer.result.scale for layer in lower(made).layers)
    for found in (PartitionedModel(made).run(samples.inputs)["y"], session.run(None, samples.inputs)[0]):
        np.testing.assert_allclose(found[:, 2], 0.37, atol=step)


def test_int8_products_of_two_tensors_on_the_host_run_beside_blocks_on_the_npu(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    rows = numbers.normal(size=(40, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], name="first"),
        helper.make_node("Gemm", ["x", "v"], ["b"], name="second"),
        helper.make_node("Reshape", ["a", "heads"], ["c"], name="queries"),
        helper.make_node("Reshape", ["b", "heads"], ["d"], name="keys"),
        helper.make_node("Transpose", ["d"], ["e"], name="turned", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["c", "e"], ["p"], name="product"),
        helper.make_node("Transpose", ["p"], ["t"], name="turned back", perm=[0, 2, 1]),
        helper.make_node("Add", ["t", "bias"], ["y"], name="shifted"),
    ]
    weights = {name: numbers.normal(size=(8, 12)).astype(np.float32) for name in "wv"}
    model = float_model(nodes, weights | {"heads": np.array([-1, 3, 4]), "bias": np.ones(3, np.float32)}, rows)
    build = float_build(tmp_path / "build", model, rows)
    write_npz(tmp_path / "samples.npz", {"x": rows})
    made = quantize(build, QuantizeOptions(scheme=Scheme.NPU_MXINT8, samples=tmp_path / "samples.npz"))
    assert made.functional is not None
    assert "product (MatMul)" in made.functional.on_host
    assert made.functional.max_relative_difference < 0.05
