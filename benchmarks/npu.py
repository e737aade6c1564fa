"""The NPU on real networks: cycles per layer, multiplier utilization, speed of the functional model, accuracy.

Without arguments it compiles a network with the shape of ResNet-8 (random weights) for every profile with enough memory. With
`--resnet8 FILE.h5 --calibration A.npz --evaluation B.npz` (the MLPerf Tiny reference model; CIFAR-10 as `images`, `labels`)
it also measures the accuracy loss of int8. Some images run through the RTL.

Run it with `python -P`, or benchmarks/quantize.py hides the package quantize.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from accel.npu.compiler.compile import Compiled, compile_model
from accel.npu.machines.board import Board
from accel.npu.machines.host import Session
from accel.npu.machines.port import Hardware
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.machines.simulated_board import simulated_board
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import NpuProfile, find_profile, npu_profiles
from edgewright.errors import BadInputError
from quantize.npu.mxint8 import block_weights

Float = npt.NDArray[np.float32]
Weights = Callable[[str, str, tuple[int, ...]], Float]
DEPTHWISE_LAYERS = (  # channels, plane, kernel, step
    (32, 112, 3, 1),
    (64, 56, 3, 1),
    (64, 56, 3, 2),
    (128, 28, 3, 1),
    (128, 28, 3, 2),
    (128, 14, 3, 1),
    (128, 14, 3, 2),
    (128, 7, 3, 1),
    (128, 14, 5, 1),
    (128, 14, 5, 2),
)
PUBLISHED = """published, other systems, one CIFAR-10 image: FINN CNV-W1A1 Pynq-Z2 1.51 ms (84.5 %), hls4ml RN08 7.6 ms (83.5 %),
fpgaConvNet Zybo Z7-10 3.15 ms (85.5 %) and Zedboard 0.41 ms (86.0 %); measured on boards, where ours is a cycle model"""


def main() -> None:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("resnet8", "calibration", "evaluation"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--rtl-images", type=int, default=3, help="number of images for the RTL in a shared library")
    parser.add_argument("--board-images", type=int, default=0, help="number of images for a simulated board")
    chosen = parser.parse_args()
    weights = trained_weights(chosen.resnet8) if chosen.resnet8 else random_weights()
    model = resnet8(weights)
    images, _ = read_images(chosen.calibration) if chosen.calibration else (random_images(64), None)
    quantized = quantize(model, images)
    mobilenet = quantize(small_mobilenet(random_weights()), images[:20])
    for name, network in (("ResNet-8", quantized), ("small MobileNetV2, random weights", mobilenet)):
        print(f"== {name}")
        for profile in npu_profiles():
            show_costs(network, profile)
    print("== ResNet-8, weights in blocks (MXINT8)")
    blocks, format_profile = block_weights(quantized, model), find_profile("npu-sim-8-mx-large")
    show_costs(blocks, format_profile)
    in_format = compile_model(blocks, format_profile)
    large = find_profile("ulx3s-85f")
    show_depthwise(large)
    show_depthwise(replace(large, vector_lanes=8, external_memory_mib=0, external_bandwidth_mb_per_s=0))
    print(PUBLISHED)
    compiled = compile_model(quantized, find_profile("ulx3s-85f"))
    if chosen.evaluation:
        show_accuracy(model, quantized, compiled, *read_images(chosen.evaluation))
        print("with weights in blocks:")
        show_accuracy(model, blocks, in_format, *read_images(chosen.evaluation))
    if chosen.rtl_images:
        rtl_simulator = RtlSimulator(find_profile("ulx3s-85f"))
        show_hardware("RTL in a library, ResNet-8", rtl_simulator, compiled, images[: chosen.rtl_images])
        show_hardware(
            "RTL in a library, ResNet-8 in blocks", RtlSimulator(format_profile), in_format, images[: chosen.rtl_images]
        )
        small = compile_model(mobilenet, find_profile("ulx3s-85f"))
        show_hardware("RTL in a library, small MobileNetV2", rtl_simulator, small, images[: chosen.rtl_images])
    if chosen.board_images:
        with simulated_board(find_profile("ulx3s-85f")) as device:
            board = Board(find_profile("ulx3s-85f"), device)
            show_hardware("simulated board on a serial line", board, compiled, images[: chosen.board_images])


def show_costs(quantized: onnx.ModelProto, profile: NpuProfile) -> None:
    try:
        compiled = compile_model(quantized, profile)
    except BadInputError as error:
        print(f"{profile.name}: {error}")
        return
    cost = estimate(compiled.program, profile)
    print(
        f"{profile.name} {profile.rows}x{profile.columns}: {cost.counters.cycles} cycles, {cost.compute_ms:.3f} ms at "
        f"{profile.clock_mhz:g} MHz [{cost.basis}], MAC utilization {cost.mac_use:.1%}, array utilization {cost.array_use:.1%}, "
        f"{cost.input_bytes} bytes in, {cost.output_bytes} out, program {cost.program_bytes} bytes"
    )
    if profile.name == "ulx3s-85f":
        for layer in cost.layers:
            print(f"    {layer.name:24s} {layer.operator:12s} {layer.cycles:7d} cycles  MAC utilization {layer.mac_use:6.1%}")


def show_depthwise(profile: NpuProfile) -> None:
    """Print the cycles (cycle model) of depthwise layers of MobileNet's sizes in three implementations, with enough memory."""
    roomy = replace(profile, weight_rows=1 << 18, activation_vectors=1 << 16, parameter_groups=1 << 12, instructions=1 << 16)
    print(f"== depthwise layers: dense matrices, their diagonal blocks only, depthwise unit; {profile.name} with larger memories")
    print(f"   and {profile.vector_lanes} vector lanes")
    for channels, size, kernel, step in DEPTHWISE_LAYERS:
        layer, dense = (depthwise_layer(channels, size, kernel, step, group) for group in (channels, 1))
        programs = [
            compile_model(dense, roomy).program,  # as many cycles with zeros in it as without
            compile_model(layer, roomy, depthwise_unit=False).program,
            compile_model(layer, roomy).program,
        ]
        costs = [estimate(program, roomy) for program in programs]
        cycles = [cost.counters.cycles for cost in costs]
        layer_name = f"{channels:4d} channels {size:3d}x{size:<3d} {kernel}x{kernel} step {step}"
        ratios = (
            f"{cycles[0] / cycles[2]:5.1f} and {cycles[1] / cycles[2]:.1f} times as fast, MAC utilization {costs[2].mac_use:.1%}"
        )
        print(f"{layer_name}: {cycles[0]:8d} {cycles[1]:7d} {cycles[2]:6d} cycles, {ratios}", flush=True)


def depthwise_layer(channels: int, size: int, kernel: int, step: int, group: int) -> onnx.ModelProto:
    graph = Graph(random_weights())
    result = graph.conv("image", "depthwise", channels, channels, kernel, step, group)
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", channels, size, size])]
    outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)]
    layer = helper.make_graph(graph.nodes[1:], "layer", inputs, outputs, graph.constants)
    model = helper.make_model(layer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return quantize(model, np.random.default_rng(2).normal(size=(2, channels, size, size)).astype(np.float32))


def show_accuracy(
    model: onnx.ModelProto, quantized: onnx.ModelProto, compiled: Compiled, images: Float, labels: npt.NDArray[np.int64] | None
) -> None:
    output = compiled.program.description.outputs[0]
    session = Session(FunctionalModel(find_profile(compiled.program.description.profile_name)), compiled.program)
    session.run({"image": images[:16]})
    started = time.perf_counter()
    ours = session.run({"image": images})[output.name]
    took_s = time.perf_counter() - started
    floats = run(model, images, "logits")
    theirs = run(quantized, images, output.name)
    steps = np.rint((ours - theirs) / output.scale).astype(int)
    print(f"functional model: {len(images) / took_s:.0f} images/s")
    if labels is not None:
        for name, logits in (("float", floats), ("onnxruntime QDQ", theirs), ("functional model", ours)):
            print(f"accuracy {name:17s} {(logits.argmax(1) == labels).mean():.4f}")
    agreement = (ours.argmax(1) == theirs.argmax(1)).mean()
    sizes, counts = np.unique(steps, return_counts=True)
    print(f"functional model against onnxruntime QDQ: labels {agreement:.4f}, steps {sizes.tolist()} x {counts.tolist()}")


def show_hardware(title: str, hardware: Hardware, compiled: Compiled, images: Float) -> None:
    name = compiled.program.description.outputs[0].name
    started = time.perf_counter()
    answers = Session(hardware, compiled.program).run({"image": images})[name]
    took_s = time.perf_counter() - started
    equal = np.array_equal(answers, Session(FunctionalModel(hardware.profile), compiled.program).run({"image": images})[name])
    exact = hardware.counters == estimate(compiled.program, hardware.profile).counters
    print(
        f"{title}: upload and {len(images)} images in {took_s:.1f} s; "
        f"outputs equal: {equal}; counters equal the cycle model: {exact}"
    )


class Graph:
    """A float network under construction, from channels-last images of 32 x 32 x 3."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.weights = weights
        self.images = self.add("Transpose", "image", name="channels_first", perm=[0, 3, 1, 2])

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def relu(self, source: str) -> str:
        return self.add("Relu", source, name=f"{source}.relu")

    def conv(self, source: str, name: str, inputs: int, outputs: int, kernel: int, step: int = 1, group: int = 1) -> str:
        parts = self._constants(name, kernel=(outputs, inputs // group, kernel, kernel), bias=(outputs,))
        return self.add("Conv", source, *parts, name=name, strides=[step, step], group=group, auto_pad="SAME_UPPER")

    def classify(self, source: str, channels: int) -> onnx.ModelProto:
        dense = self._constants("dense", kernel=(channels, 10), bias=(10,))
        logits = self.add("Gemm", self.add("Flatten", source, name="flatten"), *dense, name="logits")
        self.add("Softmax", logits, name="probabilities")
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 32, 32, 3])]
        outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])]
        graph = helper.make_graph(self.nodes, "network", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _constants(self, layer: str, **shapes: tuple[int, ...]) -> list[str]:
        names = [f"{layer}.{part}" for part in shapes]
        for name, (part, shape) in zip(names, shapes.items(), strict=True):
            self.constants.append(numpy_helper.from_array(self.weights(layer, part, shape), name))
        return names


def resnet8(weights: Weights) -> onnx.ModelProto:
    """Return MLPerf Tiny's image classifier, with batch normalization folded into the convolutions."""
    graph = Graph(weights)
    x = graph.relu(graph.conv(graph.images, "conv2d", 3, 16, 3))
    y = graph.relu(graph.conv(x, "conv2d_1", 16, 16, 3))
    x = graph.relu(graph.add("Add", x, graph.conv(y, "conv2d_2", 16, 16, 3), name="add_0"))
    for stage, (inputs, outputs) in enumerate(((16, 32), (32, 64)), 1):
        y = graph.relu(graph.conv(x, f"conv2d_{3 * stage}", inputs, outputs, 3, 2))
        y = graph.conv(y, f"conv2d_{3 * stage + 1}", outputs, outputs, 3)
        shortcut = graph.conv(x, f"conv2d_{3 * stage + 2}", inputs, outputs, 1, 2)
        x = graph.relu(graph.add("Add", shortcut, y, name=f"add_{stage}"))
    return graph.classify(graph.add("AveragePool", x, name="average", kernel_shape=[8, 8], strides=[8, 8]), 64)


def small_mobilenet(weights: Weights) -> onnx.ModelProto:
    """Return MobileNetV2's blocks for small images: expand by 4, depthwise, project, and add where the shapes allow it."""
    graph = Graph(weights)
    x, channels = graph.relu(graph.conv(graph.images, "stem", 3, 16, 3, 2)), 16
    for number, (outputs, step, kernel) in enumerate([(16, 1, 3), (24, 2, 3), (24, 1, 3), (40, 2, 5), (40, 1, 5), (64, 1, 3)]):
        wide = 4 * channels
        y = graph.relu(graph.conv(x, f"expand_{number}", channels, wide, 1))
        y = graph.relu(graph.conv(y, f"depthwise_{number}", wide, wide, kernel, step, group=wide))
        y = graph.conv(y, f"project_{number}", wide, outputs, 1)
        x, channels = graph.add("Add", x, y, name=f"add_{number}") if (channels, 1) == (outputs, step) else y, outputs
    x = graph.relu(graph.conv(x, "last", channels, 128, 1))
    return graph.classify(graph.add("GlobalAveragePool", x, name="average"), 128)


def trained_weights(path: Path) -> Weights:
    """Read a legacy Keras file; the batch normalization after a convolution is found by its inbound node."""
    file = h5py.File(path)
    layers = json.loads(file.attrs["model_config"])["config"]["layers"]
    norm_after = {
        layer["inbound_nodes"][0][0][0]: layer["name"] for layer in layers if layer["class_name"] == "BatchNormalization"
    }
    epsilon = {layer["name"]: layer["config"].get("epsilon") for layer in layers}

    def read(layer: str, part: str) -> Float:
        values: Float = file["model_weights"][layer][layer][f"{part}:0"][()]
        return values

    def weights(layer: str, part: str, shape: tuple[int, ...]) -> Float:
        values = read(layer, part)
        norm = norm_after.get(layer)
        if norm:
            factor = read(norm, "gamma") / np.sqrt(read(norm, "moving_variance") + epsilon[norm])
            values = values * factor if part == "kernel" else (values - read(norm, "moving_mean")) * factor + read(norm, "beta")
        values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values
        assert values.shape == shape
        return np.ascontiguousarray(values, np.float32)

    return weights


def random_weights() -> Weights:
    generator = np.random.default_rng(0)

    def weights(_layer: str, part: str, shape: tuple[int, ...]) -> Float:
        spread = 0.1 if part == "bias" else np.sqrt(2 / np.prod(shape[1:] if len(shape) == 4 else shape[:1]))
        return (generator.normal(size=shape) * spread).astype(np.float32)

    return weights


def quantize(model: onnx.ModelProto, images: Float) -> onnx.ModelProto:
    class Samples(CalibrationDataReader):  # type: ignore[misc]
        batches: Iterator[dict[str, Float]] = iter([{"image": images[at : at + 50]} for at in range(0, len(images), 50)])

        def get_next(self) -> dict[str, Float] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, before)
        quantize_static(
            before,
            after,
            Samples(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True},
        )
        return onnx.load(after)


def run(model: onnx.ModelProto, images: Float, tensor: str) -> Float:
    """Return any tensor of a graph, run by ONNX Runtime without optimizations."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    extended.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(extended.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: Float = session.run([tensor], {"image": images})[0]
    return result


def read_images(path: Path) -> tuple[Float, npt.NDArray[np.int64] | None]:
    with np.load(path, allow_pickle=False) as archive:
        labels = archive["labels"].astype(np.int64).reshape(-1) if "labels" in archive else None
        return archive["images"].astype(np.float32), labels


def random_images(count: int) -> Float:
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3)).astype(np.float32)


if __name__ == "__main__":
    main()
