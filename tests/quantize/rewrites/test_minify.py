"""Minified graphs: information that runtimes infer is omitted, and outputs stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from accel.backends.choose import load_session
from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import LayerKind
from hardware_profiles.hardware_profile import Int8Types
from quantize.int8.int8 import Int8Settings
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import noise
from tests.support.quantize_builds import digits_build, onnx_file, variant

SMALL = [Scheme.INT8, Scheme.MXINT8]


class Resnet:
    """ResNet-8 of MLPerf Tiny with the names that Keras gives its layers, and random weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Any] = {}

    def conv(self, source: str, inputs: int, outputs: int, kernel: int = 3, step: int = 1) -> str:
        name = f"conv2d_{len(self.weights) // 2}/Conv"
        spread = np.sqrt(2 / (inputs * kernel**2))
        self.weights[f"{name}/kernel"] = noise(outputs, inputs, kernel, kernel, seed=len(self.weights)) * spread
        self.weights[f"{name}/bias"] = noise(outputs, seed=len(self.weights)) * 0.1
        pads = [0] * 4 if kernel == 1 else [1] * 4 if step == 1 else [0, 0, 1, 1]
        given = [source, f"{name}/kernel", f"{name}/bias"]
        return self.add("Conv", given, f"{name}/normalized", name, pads=pads, strides=[step, step])

    def add(self, operator: str, given: list[str], wanted: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, given, [wanted], name=name, **attributes))
        return wanted

    def relu(self, source: str, count: int) -> str:
        return self.add("Relu", [source], f"activation_{count}/Relu", f"activation_{count}/Relu")

    def stack(self, source: str, inputs: int, outputs: int, count: int) -> str:
        step = 1 if inputs == outputs else 2
        inner = self.relu(self.conv(source, inputs, outputs, step=step), 2 * count - 1)
        outer = self.conv(inner, outputs, outputs)
        skipped = source if step == 1 else self.conv(source, inputs, outputs, kernel=1, step=2)
        return self.relu(self.add("Add", [skipped, outer], f"add_{count}/Add", f"add_{count}/Add"), 2 * count)

    def write(self, path: Path) -> Path:
        planes = self.add("Transpose", ["input_1"], "input_1/Transpose", "input_1/Transpose", perm=[0, 3, 1, 2])
        stem = self.relu(self.conv(planes, 3, 16), 0)
        last = self.stack(self.stack(self.stack(stem, 16, 16, 1), 16, 32, 2), 32, 64, 3)
        pooled = self.add("AveragePool", [last], "pool/AveragePool", "pool/AveragePool", kernel_shape=[8, 8])
        flat = self.add("Flatten", [pooled], "flatten/Flatten", "flatten/Flatten")
        self.weights |= {"dense/kernel": noise(64, 10) * 0.2, "dense/bias": noise(10) * 0.1}
        scores = self.add("Gemm", [flat, "dense/kernel", "dense/bias"], "dense/Gemm", "dense/Gemm")
        self.add("Softmax", [scores], "dense", "dense/Softmax")
        return onnx_file(path, self.nodes, self.weights, given=("input_1", ["N", 32, 32, 3]), wanted=("dense", ["N", 10]))


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory: pytest.TempPathFactory) -> BuildDirectory:
    folder = tmp_path_factory.mktemp("resnet8")
    write_npz(folder / "x.npz", {"input_1": noise(32, 32, 32, 3)})
    source = Resnet().write(folder / "m.onnx")
    build = convert_model(source, folder / "build", ConvertOptions(samples=folder / "x.npz"))
    for scheme in SMALL:
        quantize(build, QuantizeOptions(scheme=scheme, samples=folder / "x.npz"))
    return build


@pytest.mark.parametrize("scheme", SMALL, ids=str)
def test_a_network_for_microcontrollers_shrinks_by_three_and_a_half_with_its_graph(
    resnet8: BuildDirectory, scheme: Scheme
) -> None:
    sizes = {one.config.variant: one.config.size_bytes for one in resnet8.variants()}
    assert sizes[scheme.value] < sizes["fp32"] / 3.5


@pytest.mark.parametrize("scheme", list(Scheme), ids=str)
def test_no_shape_is_written_that_a_runtime_can_infer(scheme: Scheme) -> None:
    graph = onnx.load(variant(scheme).file(LayerKind.GRAPH), load_external_data=False).graph
    assert not graph.value_info
    onnx.shape_inference.infer_shapes(onnx.load(variant(scheme).file(LayerKind.GRAPH)), strict_mode=True)


def test_weights_of_the_float_graph_have_their_shapes_once() -> None:
    graph = onnx.load(digits_build().graph / LayerKind.GRAPH.file_name, load_external_data=False).graph
    assert {value.name for value in graph.value_info}.isdisjoint({tensor.name for tensor in graph.initializer})


def test_numbered_names_do_not_collide_with_those_of_the_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["q0", "s0", "s1"], ["s2"], name="a"),
        helper.make_node("Relu", ["s2"], ["q1"], name="b"),
        helper.make_node("Gemm", ["q1", "s3", "s4"], ["q2"], name="c"),
    ]
    weights = {"s0": noise(6, 8), "s1": noise(8), "s3": noise(8, 4), "s4": noise(4)}
    write_npz(tmp_path / "x.npz", {"q0": noise(64, 6)})
    source = onnx_file(tmp_path / "m.onnx", nodes, weights, given=("q0", ["N", 6]), wanted=("q2", ["N", 4]))
    build = convert_model(source, tmp_path / "build", ConvertOptions(samples=tmp_path / "x.npz"))
    safe = Int8Settings(types=Int8Types.U8S7)  # the full range of U8S8 saturates on processors without VNNI
    made = quantize(build, QuantizeOptions(scheme=Scheme.INT8, samples=tmp_path / "x.npz", int8=safe)).variant
    exact, rounded = (load_session(one).run({"q0": noise(8, 6)})["q2"] for one in (build.variant("fp32"), made))
    assert np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_scalars_of_the_head_are_not_shared_with_those_of_the_featurizer() -> None:
    graph = onnx.load(variant(Scheme.INT8).file(LayerKind.GRAPH), load_external_data=False).graph
    places = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer}
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    zero_points = [node.input[2] for node in quantizers]
    heads = [name for name in zero_points if places[name]["location"] == LayerKind.HEAD_WEIGHTS.file_name]
    assert len(set(heads)) == len(heads) > 0
    assert len(set(zero_points)) < len(zero_points)
