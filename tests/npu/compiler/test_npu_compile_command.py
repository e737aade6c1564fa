"""`edgewright compile` compiles a quantized variant for an NPU; on failure it leaves the build unchanged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from accel.npu.profile import find_profile
from accel.npu.program import read_program
from benchmarks.networks.npu_networks import INPUT, Float, Network
from convert.conversion import ConvertOptions, convert_model
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory, Cut, write_record
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import LayerKind, Precision
from tests.support.npu_builds import add_variant, make_npu_build

PROFILE = "npu-sim-4"


@pytest.fixture
def build(tmp_path: Path) -> tuple[BuildDirectory, Float]:
    return make_npu_build(tmp_path / "build")


def compiled(build: BuildDirectory, *options: object) -> Result:
    return CliRunner().invoke(main, ["compile", str(build.path), *map(str, options)])


def test_the_featurizer_goes_to_the_npu_and_the_head_stays_on_the_host(build: tuple[BuildDirectory, Float]) -> None:
    result = compiled(build[0], "--profile", PROFILE, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["coverage"]
    assert [row["operator"] for row in rows if row["on_npu"]] == ["Conv", "Conv", "Add", "GlobalAveragePool", "Flatten"]
    assert [(row["operator"], row["reason"]) for row in rows if not row["on_npu"]] == [
        ("Gemm", "it is part of the head, which stays on the host"),
        ("Softmax", "the NPU does not support Softmax"),
    ]
    assert json.loads((build[0].reports / f"compile-{PROFILE}.json").read_bytes())["coverage"] == rows


def test_the_variant_names_its_npu_and_keeps_interface_and_labels(build: tuple[BuildDirectory, Float]) -> None:
    compiled(build[0], "--profile", PROFILE)
    source, variant = build[0].variant("npu-int8").config, build[0].variant(PROFILE).config
    assert (variant.backend, variant.precision) == ("npu", Precision.NPU_INT8)
    assert variant.properties["npu.profile"] == find_profile(PROFILE).hash.hex()
    assert (variant.inputs, variant.outputs, variant.labels) == (source.inputs, source.outputs, source.labels)


def test_the_graph_is_valid_onnx_with_one_epcontext_node_followed_by_the_head(build: tuple[BuildDirectory, Float]) -> None:
    compiled(build[0], "--profile", PROFILE)
    variant = build[0].variant(PROFILE)
    onnx.checker.check_model(str(variant.file(LayerKind.GRAPH)))
    graph = onnx.load(variant.file(LayerKind.GRAPH)).graph
    node = graph.node[0]
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    assert (node.op_type, node.domain, list(node.input)) == ("EPContext", "com.microsoft", ["image"])
    assert (attributes["main_context"], attributes["embed_mode"]) == (1, 0)
    program = read_program((variant.path / attributes["ep_cache_context"].decode()).read_bytes())
    assert program.profile_hash == find_profile(PROFILE).hash
    assert list(node.output) == [place.name for place in program.description.outputs]
    assert {"Gemm", "Softmax"} == {inner.op_type for inner in graph.node} - {"EPContext", "QuantizeLinear", "DequantizeLinear"}


def test_the_same_build_gives_the_same_bytes(build: tuple[BuildDirectory, Float]) -> None:
    compiled(build[0], "--profile", PROFILE)
    first = {kind: build[0].variant(PROFILE).file(kind).read_bytes() for kind in build[0].variant(PROFILE).layers()}
    compiled(build[0], "--profile", PROFILE)
    assert {kind: build[0].variant(PROFILE).file(kind).read_bytes() for kind in first} == first


def test_accuracy_is_measured_if_samples_are_given(build: tuple[BuildDirectory, Float], tmp_path: Path) -> None:
    write_npz(tmp_path / "samples.npz", {"image": build[1], "labels": np.zeros(len(build[1]), np.int64)})
    result = compiled(build[0], "--profile", PROFILE, "--samples", tmp_path / "samples.npz")
    assert result.exit_code == 0, result.output
    measured = build[0].variant(PROFILE).config.measured
    assert measured is not None
    assert (measured.sample_count, measured.accuracy is not None) == (len(build[1]), True)


def test_a_compiled_variant_is_packed_for_its_npu_only(build: tuple[BuildDirectory, Float], tmp_path: Path) -> None:
    compiled(build[0], "--profile", PROFILE)
    arguments = [
        "packages",
        "build",
        str(build[0].path),
        "-o",
        str(tmp_path / "package"),
        "--name",
        "small",
        "--variant",
        PROFILE,
    ]
    packed = CliRunner().invoke(main, [*arguments, "--json"])
    assert packed.exit_code == 0, packed.output
    shown = json.loads(CliRunner().invoke(main, ["packages", "inspect", str(tmp_path / "package"), "--json"]).stdout)
    assert shown["variants"][0]["config"]["profiles"] == [PROFILE]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--profile", "npu-sim-5"], "there is no NPU profile 'npu-sim-5'; known: npu-sim-", id="unknown profile"),
        pytest.param(["--profile", PROFILE, "--variant", "int9"], "has no variant 'int9'", id="unknown variant"),
        pytest.param(
            ["--profile", PROFILE, "--variant", "fp32"],
            "the NPU runs quantized graphs, but this one has no QuantizeLinear: quantize it with scheme npu-int8",
            id="not quantized",
        ),
    ],
)
def test_a_failed_compilation_prints_one_line_and_leaves_no_variant(
    build: tuple[BuildDirectory, Float], options: list[str], message: str
) -> None:
    result = compiled(build[0], *options)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert [variant.config.variant for variant in build[0].variants()] == ["fp32", "npu-int8"]


@pytest.mark.parametrize(
    ("profile", "variants", "scheme"),
    [
        pytest.param("npu-sim-8", "npu-int8", "npu-int8", id="int8"),
        pytest.param("npu-sim-8-mx", "npu-mxint8 or npu-int8", "npu-mxint8", id="mxint8"),
    ],
)
def test_the_error_for_a_build_without_an_npu_variant_names_the_scheme_to_use(
    build: tuple[BuildDirectory, Float], profile: str, variants: str, scheme: str
) -> None:
    shutil.rmtree(build[0].variant("npu-int8").path)
    result = compiled(build[0], "--profile", profile)
    assert result.exit_code == 2
    assert result.stderr == (
        f"edgewright: {build[0].path} must have the variant {variants}, but it has fp32; "
        f"run: edgewright quantize {build[0].path} --scheme {scheme} --samples X.npz\n"
    )


def test_a_source_that_is_quantized_already_is_not_asked_for_another_scheme(
    build: tuple[BuildDirectory, Float], tmp_path: Path
) -> None:
    source = build[0].variant("npu-int8").file(LayerKind.GRAPH)
    quantized = convert_model(source, tmp_path / "quantized", ConvertOptions())
    result = compiled(quantized, "--profile", "npu-sim-8")
    assert result.exit_code == 2
    assert result.stderr == (
        f"edgewright: {quantized.path}: the model must be a float model, but it is already quantized "
        "(DequantizeLinear, QuantizeLinear): convert its float original, or package it as it is\n"
    )


def test_an_mxint8_npu_uses_npu_int8_if_the_build_has_no_mxint8_variant(build: tuple[BuildDirectory, Float]) -> None:
    result = compiled(build[0], "--profile", "npu-sim-8-mx", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["source"] == "npu-int8"
    assert build[0].variant("npu-sim-8-mx").config.precision is Precision.NPU_INT8


def test_a_compiled_variant_is_not_compiled_again(build: tuple[BuildDirectory, Float]) -> None:
    compiled(build[0], "--profile", PROFILE)
    result = compiled(build[0], "--profile", "npu-sim-8", "--variant", PROFILE)
    assert result.exit_code == 2
    assert result.stderr.startswith("edgewright: npu-sim-4 is already compiled; specify its quantized source")


def test_a_variant_with_wrong_results_is_not_kept(build: tuple[BuildDirectory, Float]) -> None:
    golden = build[0].graph / LayerKind.GOLDEN_OUTPUTS.file_name
    (name,) = (spec.name for spec in build[0].record.outputs)
    write_npz(golden, {name: np.roll(np.load(golden)[name], 1, axis=1)})
    result = compiled(build[0], "--profile", PROFILE)
    assert result.exit_code == 1
    assert "npu-sim-4 must pass the golden samples, but" in result.stderr
    assert PROFILE not in [variant.config.variant for variant in build[0].variants()]


def test_a_cut_at_the_input_compiles_the_whole_graph_for_the_npu(build: tuple[BuildDirectory, Float]) -> None:
    write_record(build[0].path, replace(build[0].record, cut=Cut(tensors=(INPUT,), featurizer_nodes=0, head_nodes=9)))
    result = compiled(build[0], "--profile", PROFILE, "--json")
    assert result.exit_code == 0, result.output
    assert "Gemm" in [row["operator"] for row in json.loads(result.stdout)["coverage"] if row["on_npu"]]


def test_the_error_lists_every_unsupported_operator_if_no_layer_can_run(build: tuple[BuildDirectory, Float]) -> None:
    network = Network(3, 8, 8)
    squared = network.add("Hardmax", network.add("Softmax", "image"))
    quantized = network.model(squared)
    scale, zero = (
        onnx.numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        onnx.numpy_helper.from_array(np.array(0, np.int8), "z"),
    )
    quantized.graph.initializer.extend([scale, zero])
    quantized.graph.node[0].input[0] = "image_real"
    quantized.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", ["image", "s", "z"], ["image_q"]))
    quantized.graph.node.insert(1, onnx.helper.make_node("DequantizeLinear", ["image_q", "s", "z"], ["image_real"]))
    add_variant(build[0], "odd", Precision.NPU_INT8, quantized)
    result = compiled(build[0], "--profile", PROFILE, "--variant", "odd")
    assert result.exit_code == 2
    for operator in ("Softmax", "Hardmax"):
        assert f"({operator}): the NPU does not support {operator}" in result.stderr
