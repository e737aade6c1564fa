"""npu-int8: graphs for the NPU's compiler, measured with the NPU's rounding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from accel.npu.compiler.compile import compile_model
from accel.npu.machines.host import Session
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.profile import find_profile
from convert.conversion import ConvertOptions, convert_model
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, load_samples, write_npz
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import ModelError
from edgewright.packing import PackOptions, pack
from quantize.npu.functional import ObservedNpuGraph, PartitionedModel
from quantize.quantization import QuantizeOptions, quantize
from quantize.report.detail import read_details
from quantize.scheme import Scheme
from tests.support.convert_networks import Array, noise
from tests.support.quantize_builds import (
    fresh_build,
    functional_evaluation,
    held_out_samples,
    onnx_file,
    quantized_build,
    training_samples,
    variant,
)

SMALL = find_profile("npu-sim-8")


@pytest.fixture(scope="module")
def made() -> VariantDirectory:
    return variant(Scheme.NPU_INT8)


@pytest.fixture(scope="module")
def graph(made: VariantDirectory) -> onnx.ModelProto:
    return onnx.load(made.file(LayerKind.GRAPH))


@pytest.fixture(scope="module")
def samples() -> Samples:
    return load_samples(held_out_samples(), quantized_build().record.inputs).slice(0, 64)


def test_every_operator_of_the_featurizer_runs_on_the_npu(graph: onnx.ModelProto) -> None:
    compiled = compile_model(graph, SMALL)
    assert [row.layer for row in compiled.on_host] == ["hidden/Gemm", "hidden/Relu", "classes/Gemm", "classes/Softmax"]
    assert {row.operator for row in compiled.coverage if row.on_npu} >= {"Conv", "Add", "MaxPool"}


def test_weights_are_symmetric_and_activations_signed(graph: onnx.ModelProto) -> None:
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    kernels = [known[name] for name in known if name.endswith("kernel/q")]
    assert {kernel.dtype.name for kernel in kernels} == {"int8"}
    assert {int(np.abs(kernel.astype(int)).max()) for kernel in kernels} == {127}
    quantizers = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert {known[node.input[2]].dtype.name for node in quantizers} == {"int8"}
    assert {known[node.input[1]].ndim for node in quantizers} == {0}


def test_the_head_stays_float(made: VariantDirectory) -> None:
    before = quantized_build().variant("fp32")
    assert made.file(LayerKind.HEAD_WEIGHTS).read_bytes() == before.file(LayerKind.HEAD_WEIGHTS).read_bytes()
    kept = {one.node: one.reason for one in read_details(quantized_build())["npu-int8"].float_fallbacks}
    assert kept["hidden/Gemm"] == "it is after the cut: the head runs on the host"


def test_accuracy_is_measured_on_the_functional_model_too() -> None:
    found = functional_evaluation(quantized_build(), "npu-int8")
    assert found is not None
    assert (found.backend, found.count) == ("npu functional model", 400)
    assert (found.agreement_with_onnxruntime or 0.0) >= 0.99
    assert (found.agreement or 0.0) >= 0.98
    assert found.on_host == ("hidden/Gemm (Gemm)", "hidden/Relu (Relu)", "classes/Gemm (Gemm)", "classes/Softmax (Softmax)")


def test_inner_tensors_are_within_a_step_of_onnxruntime(graph: onnx.ModelProto, samples: Samples) -> None:
    functional = ObservedNpuGraph(graph)
    exact = onnx.ModelProto()
    exact.CopyFrom(graph)
    exact.graph.output.extend([onnx.ValueInfoProto(name=name) for name in functional.tensors])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exact.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = dict(zip(functional.tensors, session.run(list(functional.tensors), samples.inputs), strict=True))
    found = functional.run(samples.inputs, functional.tensors)
    known = {tensor.name: tensor for tensor in graph.graph.initializer}
    scales = {node.output[0]: node.input[1] for node in graph.graph.node if node.op_type == "DequantizeLinear"}
    steps = {name: float(numpy_helper.to_array(known[scales[name]])) for name in functional.tensors}
    assert len(steps) == 5
    assert max(np.abs(expected[name] - found[name]).max() / steps[name] for name in steps) < 2.01
    assert max(np.mean(np.abs(expected[name] - found[name]) > steps[name] / 2) for name in steps) < 0.01


def test_every_npu_computes_the_bits_of_the_functional_model(graph: onnx.ModelProto, samples: Samples) -> None:
    program = compile_model(graph, SMALL).program
    ((name, small),) = Session(FunctionalModel(SMALL), program).run(samples.inputs).items()
    np.testing.assert_array_equal(small, PartitionedModel(graph).run_all(samples.inputs)[name])


def test_the_command_shows_both_evaluations_and_packages_need_the_compiled_variant(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    arguments = ["quantize", str(build.path), "--scheme", "npu-int8", "--samples", str(training_samples()), "--json"]
    printed = json.loads(CliRunner().invoke(main, arguments).output)
    assert [one["backend"] for one in printed] == ["onnxruntime", "onnxruntime", "npu functional model"]
    assert printed[2]["latency_ms"] is None
    package = pack(build, tmp_path / "package", PackOptions(name="digits"))
    assert [one.config.variant for one in package.variants] == ["fp32"]


def build_of(nodes: list[onnx.NodeProto], weights: dict[str, Array], folder: Path, width: int = 6) -> BuildDirectory:
    onnx_file(folder / "m.onnx", nodes, weights, given=("x", ["N", width]), wanted=("y", ["N", 4]))
    write_npz(folder / "x.npz", {"x": noise(64, width, seed=1)})
    return convert_model(folder / "m.onnx", folder / "build", ConvertOptions(samples=folder / "x.npz"))


def test_a_network_without_a_featurizer_runs_completely_on_the_npu(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "b"], ["y"], name="second"),
    ]
    build = build_of(nodes, {"a": noise(6, 8), "b": noise(8, 4)}, tmp_path)
    quantize(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz"))
    found = functional_evaluation(build, "npu-int8")
    assert found is not None
    assert found.on_host == ()


def test_a_unit_that_died_in_training_does_not_overflow_the_accumulators(tmp_path: Path) -> None:
    alive = noise(96, 4)
    alive[:, 2] *= 6e-7
    nodes = [helper.make_node("Gemm", ["x", "a", "bias"], ["y"], name="only")]
    build = build_of(nodes, {"a": alive, "bias": np.ones(4)}, tmp_path, width=96)
    made = quantize(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz")).variant
    found = PartitionedModel(onnx.load(made.file(LayerKind.GRAPH))).run({"x": noise(64, 96, seed=1)})["y"]
    np.testing.assert_allclose(found[:, 2], 1.0, atol=0.2)


def test_a_network_without_an_operator_of_the_npu_is_refused_with_the_reasons(tmp_path: Path) -> None:
    bounds = {"first": 0, "last": 4, "axis": 1}
    nodes = [
        helper.make_node("Softmax", ["x"], ["h"], name="squash"),
        *(helper.make_node("Constant", [], [name], name=name, value_ints=[number]) for name, number in bounds.items()),
        helper.make_node("Slice", ["h", *bounds], ["y"], name="part"),
    ]
    build = build_of(nodes, {}, tmp_path)
    with pytest.raises(ModelError, match=r"one layer must run on the NPU, but it supports none of squash \(Softmax\), part"):
        quantize(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=tmp_path / "x.npz"))
    assert [one.config.variant for one in build.variants()] == ["fp32"]
