"""Networks that alternate between host and NPU: onnxruntime is the reference, and the RTL has the functional model's bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from accel.backends.choose import load_session
from accel.npu.compiler.compile import Compiled
from accel.npu.compiler.host_part import host_parts
from accel.npu.compiler.partition import compile_partitioned
from accel.npu.compiler.place import DoesNotFitError
from accel.npu.link.frames import WORDS_PER_FRAME, Command, Request
from accel.npu.machines.host import Machine, Session, run_in_turn
from accel.npu.machines.host_parts import onnx_steps
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.machines.simulated_board import simulated_board
from accel.npu.model.crossing import FRAME_BYTES, REQUEST_OVERHEAD
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import find_profile
from accel.npu.program import read_program
from benchmarks.networks.npu_networks import INPUT, Float, Network, quantize, reference
from edgewright.cli import main
from edgewright.compiling import compile_variant
from edgewright.contracts.samples import Tensors, write_npz
from edgewright.contracts.variant import LayerKind
from edgewright.errors import ModelError
from quantize.quantization import QuantizeOptions
from quantize.quantization import quantize as quantize_build
from quantize.scheme import Scheme
from tests.support.npu_builds import make_build
from tests.support.quantize_builds import functional_evaluation

PROFILE = replace(find_profile("npu-sim-4"), host_mmac_per_s=1e-3)


def conv(network: Network, source: str, inputs: int, outputs: int, step: int = 1) -> str:
    return network.conv(source, inputs, outputs, pads=[1, 1, 1, 1], strides=[step, step])


def relu_conv(network: Network, source: str, inputs: int, outputs: int, step: int = 1) -> str:
    return network.add("Relu", conv(network, source, inputs, outputs, step))


def gate(network: Network, source: str, channels: int) -> str:
    """A squeeze-and-excite gate: global pool, two layers, sigmoid, and a product with each channel."""
    squeezed = network.add("Relu", network.conv(network.add("GlobalAveragePool", source), channels, 4, (1, 1)))
    return network.add("Mul", source, network.add("Sigmoid", network.conv(squeezed, 4, channels, (1, 1))))


def upsampled(network: Network, source: str, inputs: int, outputs: int) -> str:
    weights = network.generator.normal(size=(inputs, outputs, 2, 2)) * 0.2
    return network.add("ConvTranspose", source, network.constant(weights.astype(np.float32)), strides=[2, 2])


def squeeze_and_excite() -> tuple[Network, str]:
    network = Network(3, 8, 8)
    x = gate(network, relu_conv(network, INPUT, 3, 4), 4)
    y = network.add("GlobalAveragePool", relu_conv(network, x, 4, 8, 2))
    return network, network.gemm(network.add("Flatten", y), 8, 5)


def gate_around_a_block() -> tuple[Network, str]:
    network = Network(3, 8, 8)
    x = relu_conv(network, INPUT, 3, 4)
    y = conv(network, gate(network, conv(network, x, 4, 4), 4), 4, 4)
    return network, network.add("Relu", network.add("Add", x, y))


def up_and_down() -> tuple[Network, str]:
    network = Network(3, 8, 8)
    skip = relu_conv(network, INPUT, 3, 4)
    low = relu_conv(network, network.add("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2]), 4, 8)
    joined = network.add("Concat", upsampled(network, low, 8, 4), skip, axis=1)
    return network, network.conv(relu_conv(network, joined, 8, 4), 4, 2, (1, 1))


def two_gates() -> tuple[Network, str]:
    network = Network(3, 8, 8)
    x = gate(network, relu_conv(network, INPUT, 3, 4), 4)
    return network, relu_conv(network, gate(network, relu_conv(network, x, 4, 8), 8), 8, 4)


def host_first() -> tuple[Network, str]:
    network = Network(3, 8, 8)
    x = relu_conv(network, network.add("Softmax", INPUT, axis=1), 3, 4)
    return network, network.add("Mul", x, conv(network, INPUT, 3, 4))


def image_in_both_segments() -> tuple[Network, str]:
    network = Network(3, 8, 8)
    x = conv(network, gate(network, relu_conv(network, INPUT, 3, 4), 4), 4, 4)
    return network, network.add("Add", x, network.conv(INPUT, 3, 4, (1, 1)))


def tensor_for_two_later_segments() -> tuple[Network, str]:
    network = Network(3, 8, 8)
    x = relu_conv(network, INPUT, 3, 4)
    y = network.add("Add", x, conv(network, gate(network, conv(network, x, 4, 4), 4), 4, 4))
    return network, network.add("Add", x, conv(network, gate(network, y, 4), 4, 4))


def image_in_two_layouts() -> tuple[Network, str]:
    network = Network(8, 8, 3)
    planes = network.add("Transpose", INPUT, perm=[0, 3, 1, 2])
    vector = network.gemm(network.add("Flatten", INPUT), 192, 4)
    pooled = network.add("Flatten", network.add("GlobalAveragePool", relu_conv(network, planes, 3, 4)))
    return network, network.add("Add", vector, pooled)


def two_samples_per_image() -> tuple[Network, str]:
    """The host reshapes every image to two samples and back, so the segments run different numbers of samples."""
    network = Network(4, 8, 8)
    halves = network.add("Reshape", relu_conv(network, INPUT, 4, 8), network.constant(np.array([-1, 4, 8, 8])))
    whole = network.add("Reshape", relu_conv(network, halves, 4, 4), network.constant(np.array([-1, 8, 8, 8])))
    return network, relu_conv(network, whole, 8, 4)


def attention() -> tuple[Network, str]:
    network = Network(8, 4, 4)
    x = relu_conv(network, INPUT, 8, 8)
    rows = network.constant(np.array([0, 8, 16]))
    query, key = (network.add("Reshape", network.conv(x, 8, 8, (1, 1)), rows) for _ in range(2))
    scores = network.add("Softmax", network.add("MatMul", network.add("Transpose", query, perm=[0, 2, 1]), key), axis=-1)
    mixed = network.add("Reshape", network.add("MatMul", query, scores), network.constant(np.array([0, 8, 4, 4])))
    return network, relu_conv(network, network.add("Add", x, mixed), 8, 4)


def host_between_branches() -> tuple[Network, str]:
    """The host's result is read by the last host operator again, after the second segment."""
    network = Network(3, 8, 8)
    scores = network.add("Softmax", relu_conv(network, INPUT, 3, 4), axis=1)
    return network, network.add("Mul", scores, relu_conv(network, scores, 4, 4))


NETWORKS: dict[str, tuple[Callable[[], tuple[Network, str]], int]] = {
    "squeeze and excite": (squeeze_and_excite, 2),
    "squeeze and excite inside a residual block": (gate_around_a_block, 2),
    "transposed convolution with a skip connection": (up_and_down, 2),
    "two gates": (two_gates, 3),
    "the host begins": (host_first, 1),
    "the image is an input of both segments": (image_in_both_segments, 2),
    "a tensor is read by two later segments": (tensor_for_two_later_segments, 3),
    "the image in two layouts": (image_in_two_layouts, 1),
    "a result of the host is read twice": (host_between_branches, 2),
    "two samples per image": (two_samples_per_image, 3),
    "attention": (attention, 2),
}


def quantized_network(name: str) -> tuple[onnx.ModelProto, Float]:
    network, result = NETWORKS[name][0]()
    model, images = network.model(result), network.images(12)
    return quantize(model, images), images


def run(compiled: Compiled, model: onnx.ModelProto, machine: Machine, images: Float) -> Tensors:
    """Run a network segment by segment, with onnxruntime between them."""
    parts = host_parts(model, compiled.program.description.runs, "test")
    graphs = {at: part.SerializeToString() for at, part in enumerate((*parts.before, parts.head)) if part is not None}
    return run_in_turn(Session(machine, compiled.program).steps, onnx_steps(graphs), {INPUT: images})


@pytest.mark.parametrize("name", NETWORKS)
def test_n55_the_segments_compute_the_quantized_graph(name: str) -> None:
    model, images = quantized_network(name)
    compiled = compile_partitioned(model, PROFILE)
    assert len(compiled.program.description.runs) == NETWORKS[name][1]
    output = model.graph.output[0].name
    (expected,) = reference(model, images, [output])
    found = run(compiled, model, FunctionalModel(PROFILE), images)[output]
    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() <= 0.03 * largest
    assert np.abs(found - expected).mean() <= 0.002 * largest


@pytest.mark.parametrize("name", ["two gates", "a tensor is read by two later segments"])
def test_segments_of_a_network_that_streams_through_the_external_memory_compute_the_same(name: str) -> None:
    chip = replace(find_profile("npu-sim-8-sdram"), weight_rows=64, activation_vectors=128, host_mmac_per_s=1e-3)
    model, images = quantized_network(name)
    compiled = compile_partitioned(model, chip)
    assert len(compiled.program.external) > 0
    assert len(compiled.program.description.runs) == 3
    output = model.graph.output[0].name
    on_chip = run(compile_partitioned(model, PROFILE), model, FunctionalModel(PROFILE), images)[output]
    np.testing.assert_array_equal(run(compiled, model, FunctionalModel(chip), images)[output], on_chip)


@pytest.mark.parametrize("name", ["squeeze and excite", "transposed convolution with a skip connection"])
def test_the_rtl_has_the_bits_of_the_functional_model_between_all_segments(name: str, require: Callable[[str], Path]) -> None:
    require("verilator")
    model, images = quantized_network(name)
    compiled = compile_partitioned(model, PROFILE)
    hardware = RtlSimulator(PROFILE)
    expected, found = (run(compiled, model, machine, images[:3]) for machine in (FunctionalModel(PROFILE), hardware))
    hardware.close()
    assert {place.name for place in compiled.program.description.outputs} < set(found)
    for tensor, values in expected.items():
        np.testing.assert_array_equal(found[tensor], values, err_msg=tensor)


def test_only_the_unsupported_operator_stays_on_the_host() -> None:
    model, _ = quantized_network("squeeze and excite")
    compiled = compile_partitioned(model, PROFILE)
    assert [(row.operator, row.on_npu, row.segment) for row in compiled.coverage] == [
        *[(operator, True, 1) for operator in ("Conv", "GlobalAveragePool", "Conv", "Conv", "Sigmoid")],
        ("Mul", False, None),
        *[(operator, True, 2) for operator in ("Conv", "GlobalAveragePool", "Flatten", "Gemm")],
    ]


def test_the_program_file_keeps_its_segments_and_one_without_them_has_the_version_of_before() -> None:
    model, _ = quantized_network("squeeze and excite")
    program = compile_partitioned(model, PROFILE).program
    raw = program.to_bytes()
    assert read_program(raw).description.segments == program.description.segments
    whole = replace(program, description=replace(program.description, segments=()))
    assert (raw[4], whole.to_bytes()[4]) == (3, 2)


def test_the_estimate_counts_a_run_and_two_transfers_for_every_segment() -> None:
    model, _ = quantized_network("squeeze and excite")
    cost = estimate(compile_partitioned(model, PROFILE).program, PROFILE)
    assert [(part.input_bytes, part.output_bytes) for part in cost.segments] == [(256, 260), (256, 8)]
    frames = [256 + 2 * 14, 260 + 2 * 10, 256 + 2 * 14, 8 + 10]
    assert cost.crossing_ms == pytest.approx(sum(frames) * 10 / 3e6 * 1e3)
    assert cost.latency_ms == pytest.approx(2 * cost.compute_ms + cost.crossing_ms)


def test_n101_a_frame_has_as_many_bytes_as_the_estimate_counts() -> None:
    content = b"\1" * FRAME_BYTES
    frame = Request(Command.WRITE, 3, 0x01010101, WORDS_PER_FRAME, content).frame(1)
    assert (FRAME_BYTES, len(frame)) == (4 * WORDS_PER_FRAME, FRAME_BYTES + REQUEST_OVERHEAD)


def test_a_small_segment_between_two_transfers_stays_on_the_host_with_the_reason() -> None:
    network = Network(3, 8, 8)
    x = gate(network, relu_conv(network, INPUT, 3, 16), 16)
    small = network.add("Softmax", network.conv(x, 16, 1, (1, 1)), axis=2)
    model = network.model(relu_conv(network, small, 1, 16))
    quantized = quantize(model, network.images(4))
    everything = compile_partitioned(quantized, PROFILE)
    chosen = compile_partitioned(quantized, replace(PROFILE, host_mmac_per_s=5.0))
    assert (len(everything.program.description.runs), len(chosen.program.description.runs)) == (3, 1)
    reasons = [row.reason for row in chosen.on_host if row.operator == "Conv"]
    assert reasons[0] == "the transfer of 1280 bytes at 3000000 baud takes 4.6 ms, computing on the host 0.2 ms"


def deep_network() -> tuple[onnx.ModelProto, Float]:
    network = Network(3, 16, 16)
    x = relu_conv(network, relu_conv(network, INPUT, 3, 8), 8, 8, 2)
    x = relu_conv(network, relu_conv(network, x, 8, 16, 2), 16, 32, 2)
    return quantize(network.model(network.gemm(network.add("Flatten", x), 128, 10)), images := network.images(8)), images


@pytest.mark.parametrize(
    ("rows", "vectors", "on_host"),
    [
        pytest.param(1024, 4096, ["conv_6"], id="the largest weights"),
        pytest.param(4096, 512, ["conv_0", "conv_2"], id="the first activations"),
        pytest.param(512, 512, ["conv_0", "conv_2", "conv_6", "gemm_9"], id="both"),
    ],
)
def test_the_part_of_a_network_that_fits_runs_on_the_npu(rows: int, vectors: int, on_host: list[str]) -> None:
    model, images = deep_network()
    profile = replace(PROFILE, weight_rows=rows, activation_vectors=vectors)
    compiled = compile_partitioned(model, profile)
    assert [row.layer for row in compiled.on_host] == on_host
    (expected,) = reference(model, images, [model.graph.output[0].name])
    found = run(compiled, model, FunctionalModel(profile), images)[model.graph.output[0].name]
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()  # onnxruntime fuses layers of the host otherwise


def test_a_network_of_which_no_layer_fits_is_refused() -> None:
    model, _ = deep_network()
    with pytest.raises(DoesNotFitError, match=r"^npu-sim-4 has room for 8 bytes of weights, but the model needs"):
        compile_partitioned(model, replace(PROFILE, weight_rows=2))


def test_an_input_with_two_scales_is_quantized_for_the_npu_once() -> None:
    network = Network(3, 8, 8)
    model = network.model(network.add("Add", conv(network, INPUT, 3, 4), network.conv(INPUT, 3, 4, (1, 1))))
    quantized = quantize(model, images := network.images(8))
    second = next(node for node in quantized.graph.node if node.name == "conv_1")
    scale = onnx.numpy_helper.from_array(np.array(0.11, np.float32), "coarse")
    quantized.graph.initializer.append(scale)
    nodes = [
        helper.make_node("QuantizeLinear", [INPUT, "coarse", "image_zero_point"], ["coarse_q"]),
        helper.make_node("DequantizeLinear", ["coarse_q", "coarse", "image_zero_point"], ["coarse_real"]),
    ]
    second.input[0] = "coarse_real"
    quantized.graph.node.insert(0, nodes[1])
    quantized.graph.node.insert(0, nodes[0])
    output = quantized.graph.output[0].name
    (expected,) = reference(quantized, images, [output])
    found = run(compile_partitioned(quantized, PROFILE), quantized, FunctionalModel(PROFILE), images)[output]
    assert np.abs(found - expected).max() <= 0.03 * np.abs(expected).max()


BUILT = (
    "squeeze and excite",
    "transposed convolution with a skip connection",
    "the host begins",
    "a result of the host is read twice",
)


@pytest.mark.parametrize("name", BUILT)
def test_a_variant_of_several_segments_is_quantized_compiled_checked_and_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWRIGHT_NPU_DEVICE", "none")
    network, result = NETWORKS[name][0]()
    samples: Tensors = {INPUT: network.images(20)}
    write_npz(tmp_path / "x.npz", samples)
    build = make_build(tmp_path / "build", network.model(result), samples)
    quantize_build(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz"))
    evaluation = functional_evaluation(build, "npu-int8")
    assert evaluation is not None
    assert evaluation.max_relative_difference < 0.15
    compile_variant(build, PROFILE)
    variant = build.variant("npu-sim-4")
    onnx.checker.check_model(str(variant.file(LayerKind.GRAPH)))
    contexts = [node for node in onnx.load(variant.file(LayerKind.GRAPH)).graph.node if node.op_type == "EPContext"]
    assert len(contexts) == NETWORKS[name][1]
    session = load_session(variant, backend="npu")
    found = session.run(samples)[result]
    session.close()
    expected = load_session(build.variant("fp32")).run(samples)[result]
    np.testing.assert_allclose(found, expected, atol=0.15 * np.abs(expected).max())
    files = {kind: variant.file(kind).read_bytes() for kind in variant.layers()}
    assert LayerKind.HOST_PARTS in files
    compile_variant(build, PROFILE)
    assert {kind: variant.file(kind).read_bytes() for kind in variant.layers()} == files
    variant.file(LayerKind.HOST_PARTS).write_bytes(files[LayerKind.HOST_PARTS][:700])
    with pytest.raises(ModelError, match=r"host_parts\.tar must be a tar of numbered ONNX graphs, but it cannot be read: "):
        load_session(variant, backend="npu")
    variant.file(LayerKind.HOST_PARTS).unlink()
    with pytest.raises(ModelError, match=r"program and head must fit together, but neither computes .*; compile it again"):
        load_session(variant, backend="npu")


def test_the_command_runs_all_segments_of_a_build_directory_in_the_rtl(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    network, result = squeeze_and_excite()
    samples: Tensors = {INPUT: network.images(3)}
    write_npz(tmp_path / "x.npz", samples)
    build = make_build(tmp_path / "build", network.model(result), samples)
    quantize_build(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz"))
    arguments = ["compile", str(build.path), "--profile", "npu-sim-4", "--host-speed", "0.001"]
    printed = CliRunner().invoke(main, arguments).output
    assert "npu 2" in printed
    assert "one sample takes " in printed
    arguments = ["npu", "run", str(build.path), "--samples", str(tmp_path / "x.npz"), "--rtl", "--json"]
    run_result = CliRunner().invoke(main, arguments)
    assert run_result.exit_code == 0, run_result.output
    report = json.loads(run_result.stdout)
    assert len(report["outputs"]) == 3
    assert report["rtl"]["outputs"] == "equal to the functional model"


def test_a_board_on_a_serial_line_runs_a_variant_of_several_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require: Callable[[str], Path]
) -> None:
    require("verilator")
    network, result = up_and_down()
    samples: Tensors = {INPUT: network.images(3)}
    build = make_build(tmp_path / "build", network.model(result), samples)
    write_npz(tmp_path / "x.npz", samples)
    quantize_build(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz"))
    compile_variant(build, PROFILE)
    outputs = []
    with simulated_board(find_profile("npu-sim-4")) as device:
        for place in ("none", device):
            monkeypatch.setenv("EDGEWRIGHT_NPU_DEVICE", place)
            session = load_session(build.variant("npu-sim-4"), backend="npu")
            outputs.append(session.run(samples)[result])
            described = session.describe()["featurizer"]
            session.close()
    assert described == f"board npu-sim-4 at {device}"
    np.testing.assert_array_equal(outputs[0], outputs[1])
