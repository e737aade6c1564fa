"""`edgewright bench`: files, builds and packages, each measured in its own process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from accel.bench import BenchSettings, BenchTarget, measure
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, write_record
from edgewright.contracts.environments.file_layers import place_of
from edgewright.contracts.oci import OciLayout, Platform
from edgewright.contracts.package import read_package, unpack_variant, write_package, write_tar
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.contracts.wire import digest_of
from edgewright.errors import BadInputError, ModelError, PackageError
from tests.support.tiny_variants import make_config, make_variant


def make_build(path: Path, *names: str) -> BuildDirectory:
    config = make_config()
    with BuildDirectory.creating(path) as staging:
        record = BuildRecord(
            source_kind="onnx",
            source_digest=digest_of(b"source"),
            inputs=config.inputs,
            outputs=config.outputs,
            tolerance=config.tolerance,
        )
        write_record(staging, record)
        for name in names:
            make_variant(staging / "variants" / name, name=name)
    return BuildDirectory.open(path)


@pytest.fixture
def build(tmp_path: Path) -> BuildDirectory:
    return make_build(tmp_path / "build", "fp32", "small")


@pytest.fixture
def package(build: BuildDirectory, tmp_path: Path) -> OciLayout:
    layout = OciLayout.create(tmp_path / "package")
    platforms = [Platform(os="linux", architecture="amd64")]
    write_package(
        build,
        layout,
        name="tiny",
        profiles={"fp32": ["generic-x86-64"], "small": ["generic-x86-64"]},
        platforms={"fp32": platforms, "small": platforms},
    )
    return layout


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def bench_json(*arguments: object) -> dict[str, list[dict[str, object]]]:
    result = bench(*arguments, "--json", "--runs", 20, "--threads", 1)
    assert result.exit_code == 0, result.output
    answer: dict[str, list[dict[str, object]]] = json.loads(result.output)
    return answer


def test_every_variant_of_a_build_is_measured(build: BuildDirectory) -> None:
    answer = bench_json(build.path)
    assert [result["variant"] for result in answer["results"]] == ["fp32", "small"]
    assert answer["results"][0]["backend"] == "onnxruntime"


def test_one_variant_of_a_packed_tar_is_measured(package: OciLayout, tmp_path: Path) -> None:
    write_tar(package, tmp_path / "package.tar")
    answer = bench_json(tmp_path / "package.tar", "--variant", "small")
    assert [result["variant"] for result in answer["results"]] == ["small"]


def test_an_onnx_file_is_measured_without_any_variant(build: BuildDirectory) -> None:
    graph = build.variant("fp32").file(LayerKind.GRAPH)
    (result,) = bench_json(graph, "--batch", 8)["results"]
    assert (result["variant"], result["precision"], result["batch"]) == ("graph", None, 8)


MIXES = (
    "the outputs of a sample must not depend on the others of its batch, but here they do, so that a batch of 8 does not score "
    "8 samples: measure it with --batch 1"
)


def test_a_variant_whose_samples_depend_on_each_other_is_measured_one_sample_at_a_time(build: BuildDirectory) -> None:
    small = build.variant("small")
    VariantDirectory.write(small.path, replace(small.config, independent_samples=False))
    answer = bench_json(build.path, "--batch", 8)
    assert [result["variant"] for result in answer["results"]] == ["fp32"]
    assert json.dumps(answer["skipped"]) == json.dumps({"small": f"small: {MIXES}"})
    refused = bench(build.path, "--variant", "small", "--batch", 8)
    assert (refused.exit_code, refused.stderr) == (2, f"edgewright: small: {MIXES}\n")
    assert bench_json(build.path, "--variant", "small")["results"][0]["batch"] == 1


def test_an_onnx_file_that_mixes_samples_is_measured_one_sample_at_a_time(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=0)], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    refused = bench(tmp_path / "m.onnx", "--batch", 8)
    assert (refused.exit_code, refused.stderr) == (2, f"edgewright: {tmp_path}/m.onnx: {MIXES}\n")
    assert bench_json(tmp_path / "m.onnx")["results"][0]["batch"] == 1


def test_the_percentiles_are_ordered_and_the_machine_is_named(build: BuildDirectory) -> None:
    answer = bench_json(build.path, "--variant", "fp32")
    latency = answer["results"][0]["latency_ms"]
    assert isinstance(latency, dict)
    assert 0 < latency["min_ms"] <= latency["median_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
    assert latency["run_count"] == 20
    assert set(answer["machine"]["versions"]) == {"edgewright", "python", "numpy", "onnxruntime"}  # type: ignore[call-overload]


def test_the_table_has_a_line_per_variant_and_the_machine(build: BuildDirectory) -> None:
    lines = bench(build.path, "--runs", 5, "--threads", 1).stdout.splitlines()
    assert lines[0].split()[:4] == ["variant", "backend", "precision", "median"]
    assert [line.split()[0] for line in lines[1:3]] == ["fp32", "small"]
    assert lines[4].startswith("batch 1, threads 1; ")


def test_the_fastest_variant_is_named_with_all_measured_times(build: BuildDirectory) -> None:
    best = bench_json(build.path)["fastest"]
    assert isinstance(best, dict)
    assert best["variant"] in ("fp32", "small")
    assert min(best["shortlist_ms"], key=best["shortlist_ms"].get) == f"{best['variant']} on {best['backend']}"
    line = bench(build.path, "--runs", 5, "--threads", 1).stdout.splitlines()[5]
    assert line.startswith(f"fastest here: {best['variant']} on {best['backend']} (side by side: ")


def test_a_single_variant_or_a_given_backend_needs_no_choice(build: BuildDirectory) -> None:
    assert bench_json(build.path, "--variant", "fp32")["fastest"] is None
    assert bench_json(build.path, "--backend", "onnxruntime")["fastest"] is None


def test_the_memory_is_the_variants_own(tmp_path: Path) -> None:
    """64 MiB of weights count, independent of the memory of the parent process."""
    ballast = np.ones((32 << 20,), np.float32)
    del ballast
    path = tmp_path / "heavy.onnx"
    weights = np.zeros((4096, 4096), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")],
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4096])],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    result = measure(BenchTarget("heavy", graph=path), BenchSettings(runs=2, threads=1))
    assert 64 <= result.variant_memory_mib <= 64 * 6
    assert result.peak_memory_mib - result.variant_memory_mib < 120


def test_the_runtimes_own_memory_is_not_the_variants(build: BuildDirectory) -> None:
    result = measure(BenchTarget("fp32", build.variant("fp32")), BenchSettings(runs=2, threads=1))
    assert 0 < result.variant_memory_mib < 40 < result.peak_memory_mib


def test_variants_that_do_not_run_here_are_skipped_with_the_reason(build: BuildDirectory) -> None:
    make_variant(build.path / "variants" / "board", name="board", backend="fpga")
    result = bench(build.path, "--runs", 2, "--threads", 1)
    assert result.exit_code == 0
    assert "skipped board: no backend can run variant board on this machine" in result.stderr


def test_a_variant_that_cannot_be_loaded_is_skipped_with_the_reason_and_the_others_are_measured(build: BuildDirectory) -> None:
    build.variant("fp32").file(LayerKind.GRAPH).write_bytes(b"\x00" * 100)
    result = bench(build.path, "--runs", 2, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [each["variant"] for each in answer["results"]] == ["small"]
    assert "graph.onnx is not an ONNX graph that onnxruntime can load" in answer["skipped"]["fp32"]


def test_a_corrupt_graph_is_one_line_and_exit_code_2(build: BuildDirectory) -> None:
    build.variant("fp32").file(LayerKind.GRAPH).write_bytes(b"\x00" * 100)
    result = bench(build.path, "--variant", "fp32")
    assert result.exit_code == 2
    assert "graph.onnx is not an ONNX graph that onnxruntime can load" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["nowhere"], "nowhere: no such file; it must be an .onnx file, a build", id="nothing there"),
        pytest.param(["BUILD", "--variant", "smal"], "has no variant 'smal'; known: small", id="unknown variant"),
        pytest.param(["BUILD", "--backend", "onnxrt"], "no backend is called 'onnxrt'; known: onnxruntime", id="backend"),
        pytest.param(["BUILD", "--runs", "0"], "runs must be 1 or more, not 0", id="no runs"),
        pytest.param(["BUILD", "--batch", "-1"], "batch must be 1 or more, not -1", id="negative batch"),
        pytest.param(["BUILD", "--threads", "0"], "threads must be 1 or more, not 0", id="no threads"),
        pytest.param(["BUILD/variants"], "variants is not a package", id="not a package"),
        pytest.param(["BUILD/build.json"], "build.json is not an ONNX graph", id="not a model"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(build: BuildDirectory, arguments: list[str], message: str) -> None:
    result = bench(*(argument.replace("BUILD", str(build.path)) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_error_of_the_worker_keeps_its_class(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        measure(BenchTarget("gone", graph=tmp_path / "gone.onnx"), BenchSettings())


def test_an_onnx_file_runs_on_its_own_backend_only(build: BuildDirectory) -> None:
    graph = build.variant("fp32").file(LayerKind.GRAPH)
    with pytest.raises(BadInputError, match=r"an \.onnx file runs on onnxruntime only, not on 'npu'"):
        measure(BenchTarget("graph", graph=graph), BenchSettings(backend="npu"))


def test_an_unpacked_variant_is_the_one_that_was_packed(build: BuildDirectory, package: OciLayout, tmp_path: Path) -> None:
    packaged = read_package(package).variant("small")
    unpacked = unpack_variant(package, packaged, tmp_path / "slot")
    original = build.variant("small")
    assert unpacked.layers() == original.layers()
    assert [unpacked.file(kind).read_bytes() for kind in unpacked.layers()] == [
        original.file(kind).read_bytes() for kind in original.layers()
    ]
    assert VariantDirectory.open(tmp_path / "slot").config == packaged.config


def test_a_changed_byte_is_detected_before_unpacking(package: OciLayout, tmp_path: Path) -> None:
    packaged = read_package(package).variant("small")
    weights = packaged.layers[LayerKind.HEAD_WEIGHTS]
    digest, offset = place_of(weights)
    blob = package.blob_path(digest)
    raw = blob.read_bytes()
    blob.write_bytes(raw[:offset] + bytes([raw[offset] ^ 1]) + raw[offset + 1 :])
    with pytest.raises(PackageError, match="the package was changed or damaged"):
        unpack_variant(package, packaged, tmp_path / "slot")
    assert not (tmp_path / "slot" / LayerKind.HEAD_WEIGHTS.file_name).exists()
