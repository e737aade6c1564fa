"""int8 in the fastest types of each processor, from the command line to the choice of a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import read_package
from edgewright.contracts.samples import Samples
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import BadInputError
from edgewright.packing import PackOptions, pack
from hardware_profiles.catalog import load_profile
from hardware_profiles.hardware_profile import INT8_TYPES, Int8Types
from hardware_profiles.match import match
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.int8.int8 import Int8Settings
from quantize.int8.qdq import QdqFormat, quantized_graph
from quantize.quantization import QuantizeOptions, options_for, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import noise
from tests.support.quantize_builds import fresh_build, onnx_file, training_samples

LARGEST_SUM_OF_TWO = np.iinfo(np.int16).max
"""The largest sum of two products of an unsigned and a signed byte in vpmaddubsw."""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> BuildDirectory:
    build = fresh_build(tmp_path_factory.mktemp("types") / "build")
    plain = QuantizeOptions(scheme=Scheme.INT8, samples=training_samples(), int8=Int8Settings(correct_bias=False))
    profiles = [load_profile(name) for name in ("x86-64-vnni", "generic-x86-64", "raspberry-pi-4", "raspberry-pi-5")]
    for options in options_for(plain, profiles):
        quantize(build, options)
    return build


def weights(variant: VariantDirectory) -> list[npt.NDArray[np.int8]]:
    tensors = onnx.load(variant.file(LayerKind.GRAPH)).graph.initializer
    return [numpy_helper.to_array(tensor) for tensor in tensors if tensor.name.endswith("/kernel/q")]


def test_hardware_with_the_same_integer_types_shares_a_variant(build: BuildDirectory) -> None:
    types = {one.config.variant: one.config.properties.get(INT8_TYPES) for one in build.variants()}
    assert types == {"fp32": None, "int8": "u8s8", "int8-avx2": "u8s7", "int8-arm64": "s8s8"}


def test_no_pair_of_products_saturates_without_vnni(build: BuildDirectory) -> None:
    seven, eight = (max(int(np.abs(one).max()) for one in weights(build.variant(name))) for name in ("int8-avx2", "int8"))
    assert 2 * 255 * seven <= LARGEST_SUM_OF_TWO < 2 * 255 * eight


def test_activations_are_signed_for_arm_and_every_layer_has_integer_kernels(build: BuildDirectory, tmp_path: Path) -> None:
    path = build.variant("int8-arm64").file(LayerKind.GRAPH)
    graph = onnx.load(path, load_external_data=False).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {types[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"} == {onnx.TensorProto.INT8}
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # as it is on ARM
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    fused = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node]
    assert (fused.count("QLinearConv"), fused.count("QGemm")) == (2, 2)


@pytest.mark.parametrize("name", ["int8", "int8-avx2", "int8-arm64"])
def test_every_kind_of_integers_keeps_the_accuracy(build: BuildDirectory, name: str) -> None:
    measured = build.variant(name).config.measured
    assert measured is not None
    assert (measured.agreement or 0.0) > 0.98


def test_signed_activations_work_before_a_float_transpose(tmp_path: Path) -> None:
    """At operator set 21, onnxruntime on x86 transforms this graph to an invalid one and rejects it."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["planes"], name="planes", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["c"], name="conv"),
        helper.make_node("Transpose", ["c"], ["y"], name="head", perm=[0, 2, 3, 1]),
    ]
    ends: dict[str, Any] = {"given": ("x", ["N", 8, 8, 3]), "wanted": ("y", ["N", 8, 8, 5])}
    model = onnx.load(onnx_file(tmp_path / "m.onnx", nodes, {"kernel": noise(5, 3, 1, 1)}, **ends))
    rows = Samples({"x": noise(40, 8, 8, 3, seed=2)})
    made = quantized_graph(model, tensor_ranges(ObservedGraph(model), rows), ["head"], QdqFormat(types=Int8Types.S8S8))
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.asarray(session.run(None, rows.inputs)[0]).shape == (40, 8, 8, 5)


def test_each_device_takes_its_own_variant_from_one_package(build: BuildDirectory, tmp_path: Path) -> None:
    pack(build, tmp_path / "package", PackOptions(name="digits", variants=("int8", "int8-avx2", "int8-arm64")))
    configs = [variant.config for variant in read_package(OciLayout.open(tmp_path / "package")).variants]
    chosen = {name: match(load_profile(name), configs).chosen for name in ("generic-x86-64", "x86-64-vnni", "raspberry-pi-5")}
    assert chosen == {"generic-x86-64": "int8-avx2", "x86-64-vnni": "int8", "raspberry-pi-5": "int8-arm64"}


def test_hardware_that_cannot_run_the_scheme_is_refused() -> None:
    with pytest.raises(BadInputError) as raised:
        options_for(QuantizeOptions(scheme=Scheme.INT8, samples=None), [load_profile("npu-sim-4")])
    assert str(raised.value) == "--profile must name hardware that runs int8, but npu-sim-4 runs npu-int8"


def test_a_scheme_without_integers_has_one_variant_for_all_hardware() -> None:
    options = QuantizeOptions(scheme=Scheme.MXINT8, samples=None)
    assert options_for(options, [load_profile("raspberry-pi-4"), load_profile("x86-64-vnni")]) == [options]


@pytest.mark.parametrize(
    ("profile", "types"),
    [
        ("generic-x86-64", Int8Types.U8S7),
        ("x86-64-vnni", Int8Types.U8S8),
        ("raspberry-pi-4", Int8Types.S8S8),
        ("ulx3s-85f", None),
    ],
)
def test_a_profile_has_the_fastest_integer_types_of_its_processor(profile: str, types: Int8Types | None) -> None:
    assert load_profile(profile).int8_types is types
