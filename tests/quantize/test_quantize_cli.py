"""The commands `edgewright quantize` and `edgewright evaluate`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgewright.cli import main
from edgewright.contracts.oci import OciLayout, Platform
from edgewright.contracts.package import write_package, write_tar
from edgewright.contracts.variant import VariantDirectory
from tests.support.quantize_builds import fresh_build, held_out_samples, quantized_build, training_samples


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, code: int) -> str:
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    return result.stderr.strip().removeprefix("edgewright: ")


def test_quantize_prints_a_row_per_variant(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    result = run(
        "quantize", build.path, "--scheme", "fp16", "--scheme", "int8", "--samples", training_samples(), "--max-drop", "2%"
    )
    assert result.exit_code == 0
    header, *rows = result.output.splitlines()
    assert header.split() == ["variant", "backend", "accuracy", "agreement", "difference", "size", "kB", "p50", "ms", "p95", "ms"]
    assert [row.split()[0] for row in rows] == ["fp32", "fp16", "int8"]
    assert [one.config.variant for one in build.variants()] == ["fp16", "fp32", "int8"]
    assert json.loads((build.reports / "quantize-int8.json").read_text("utf-8"))["latency_ms"]["p50"] > 0


def test_mxint8_needs_no_samples_and_is_measured_on_the_golden_ones(tmp_path: Path) -> None:
    result = run("quantize", fresh_build(tmp_path / "build").path, "--scheme", "mxint8", "--json")
    assert result.exit_code == 0
    printed = {one["variant"]: one for one in json.loads(result.output)}
    assert printed["mxint8"]["agreement"] == 1.0
    assert printed["mxint8"]["accuracy"] is None


def test_a_scheme_that_calibrates_needs_samples(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    message = refused(run("quantize", build.path, "--scheme", "int8"), 2)
    assert message == "int8 needs real samples for calibration, but none are given: add --samples X.npz"
    assert [one.config.variant for one in build.variants()] == ["fp32"]


@pytest.mark.parametrize("scheme", ["int8", "mixed", "npu-int8", "npu-mxint8"])
def test_a_scheme_that_needs_one_message_refuses_weights_above_2_gb(tmp_path: Path, scheme: str) -> None:
    build = fresh_build(tmp_path / "build")
    variant = build.variant("fp32")
    VariantDirectory.write(variant.path, replace(variant.config, size_bytes=2_400_000_000))
    message = refused(run("quantize", build.path, "--scheme", scheme, "--samples", training_samples()), 2)
    assert message == (
        f"{build.path}: {scheme} needs graph and weights of at most 2 GB, but they are 2.4 GB: use fp16, mxint8 or int8-dynamic"
    )
    assert [one.config.variant for one in build.variants()] == ["fp32"]


FIELDS = ["variant", "backend", "precision", "count", "accuracy", "agreement", "max_relative_difference", "latency_ms"]
FIELDS += ["error", "constant"]


def test_evaluate_json_has_one_object_per_variant() -> None:
    result = run("evaluate", quantized_build().path, "--samples", held_out_samples(), "--json")
    printed = json.loads(result.output)
    names = [one["variant"] for one in printed]
    assert names == ["fp32", *sorted({"fp16", "int8", "mixed", "mxint8", "npu-int8"} | set(names) - {"fp32"})]
    assert [list(one) for one in printed] == [FIELDS] * len(names)
    assert [list(one["latency_ms"]) for one in printed] == [["p50", "p95", "p99"]] * len(names)
    assert [one["count"] for one in printed] == [397] * len(names)
    assert printed[0]["agreement"] == 1.0


def test_evaluate_runs_each_variant_on_its_own_backend_unless_another_is_named() -> None:
    arguments = ("evaluate", quantized_build().path, "--samples", held_out_samples(), "--variant", "fp32", "--json")
    (own,) = json.loads(run(*arguments).output)
    assert own["backend"] == quantized_build().variant("fp32").config.backend
    (other,) = json.loads(run(*arguments, "--backend", "openvino").output)
    assert other["backend"] == "openvino"


@pytest.fixture(params=["directory", "tar"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    layout = OciLayout.create(tmp_path / "package")
    names = [variant.config.variant for variant in quantized_build().variants()]
    platform = Platform(os="linux", architecture="amd64")
    write_package(
        quantized_build(),
        layout,
        name="digits",
        profiles={name: ["generic-x86-64"] for name in names},
        platforms={name: [platform] for name in names},
    )
    if request.param == "directory":
        return layout.path
    write_tar(layout, tmp_path / "package.tar")
    return tmp_path / "package.tar"


def test_evaluate_takes_a_package(package: Path) -> None:
    result = run("evaluate", package, "--samples", held_out_samples(), "--variant", "int8", "--backend", "onnxruntime", "--json")
    assert result.exit_code == 0
    assert [one["variant"] for one in json.loads(result.output)] == ["int8"]


@pytest.mark.parametrize("place", [0, 5000, -1])
def test_evaluate_refuses_a_package_with_a_changed_byte(tmp_path: Path, place: int) -> None:
    layout = OciLayout.create(tmp_path / "package")
    platform = Platform(os="linux", architecture="amd64")
    names = [variant.config.variant for variant in quantized_build().variants()]
    write_package(
        quantized_build(),
        layout,
        name="digits",
        profiles={name: ["p"] for name in names},
        platforms={name: [platform] for name in names},
    )
    blob = max((layout.path / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    raw = bytearray(blob.read_bytes())
    raw[place] ^= 1
    blob.write_bytes(raw)
    message = refused(run("evaluate", layout.path, "--samples", held_out_samples()), 2)
    assert message.endswith("the package was changed or damaged; fetch it again")


def test_evaluate_skips_variants_that_the_backend_does_not_run() -> None:
    arguments = ("--variant", "fp32", "--variant", "npu-int8", "--backend", "openvino", "--json")
    result = run("evaluate", quantized_build().path, "--samples", held_out_samples(), *arguments)
    assert result.exit_code == 0
    assert [one["variant"] for one in json.loads(result.stdout)] == ["fp32"]
    assert result.stderr == "skipped npu-int8: openvino does not run npu-int8 for onnxruntime\n"


def test_evaluate_fails_if_the_backend_runs_no_variant() -> None:
    arguments = ("--variant", "fp32", "--variant", "int8", "--backend", "npu")
    message = refused(run("evaluate", quantized_build().path, "--samples", held_out_samples(), *arguments), 2)
    assert message == (
        f"{quantized_build().path} must hold a variant that npu runs, but it holds none (fp32: npu does not run fp32 for "
        "onnxruntime; int8: npu does not run int8 for onnxruntime); use --backend auto"
    )


def test_an_unknown_variant_offers_the_nearest() -> None:
    message = refused(run("evaluate", quantized_build().path, "--samples", held_out_samples(), "--variant", "fp61"), 2)
    assert message == f"{quantized_build().path} has no variant 'fp61'; known: fp16, fp32"


def test_a_build_without_a_float_variant_is_refused(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    shutil.rmtree(build.path / "variants" / "fp32")
    message = refused(run("evaluate", build.path, "--samples", held_out_samples()), 2)
    assert message == f"{build.path} must hold the variant fp32, which stands for the source model; it is not there"


@pytest.mark.parametrize("text", ["much", "120%"])
def test_an_invalid_share_is_refused(text: str) -> None:
    result = run("quantize", quantized_build().path, "--scheme", "int8", "--samples", training_samples(), "--max-drop", text)
    assert result.exit_code == 2
    assert f"must be a fraction from 0% to 100%, as in 95% or 0.95, not '{text}'" in result.stderr


def test_a_directory_that_is_not_a_build_is_refused(tmp_path: Path) -> None:
    message = refused(run("quantize", tmp_path, "--scheme", "int8", "--samples", training_samples()), 2)
    assert message == f"{tmp_path} is not a build directory: it must hold build.json; 'edgewright convert' creates one"
