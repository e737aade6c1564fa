"""`edgewright quantize --backend openvino`: from the command to a package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from accel.backends.choose import load_session
from accel.golden import check_golden
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import read_package
from edgewright.contracts.variant import LayerKind, Precision, VariantDirectory
from tests.support.convert_networks import training_samples
from tests.support.quantize_builds import fresh_build

NAME = "int8-openvino"
BACKENDS = pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])


@pytest.fixture(autouse=True)
def nncf(require_package: Callable[[str], None]) -> None:
    require_package("nncf")
    require_package("openvino")


def quantize(build: Path, *more: str) -> Result:
    arguments = ["quantize", str(build), "--backend", "openvino", "--samples", str(training_samples()), *more]
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> BuildDirectory:
    made = fresh_build(tmp_path_factory.mktemp("openvino") / "build")
    result = quantize(made.path, "--scheme", "int8", "--max-drop", "1%", "--json")
    assert result.exit_code == 0, result.stderr
    assert [one["variant"] for one in json.loads(result.output)] == ["fp32", NAME]
    return made


@pytest.fixture
def variant(build: BuildDirectory) -> VariantDirectory:
    return build.variant(NAME)


def test_the_variant_is_measured_on_openvino(build: BuildDirectory, variant: VariantDirectory) -> None:
    assert (variant.config.backend, variant.config.precision) == ("openvino", Precision.INT8)
    assert variant.config.measured is not None
    assert variant.config.measured.accuracy is not None
    assert variant.config.measured.accuracy > 0.95
    assert json.loads((build.reports / f"quantize-{NAME}.json").read_bytes())["backend"] == "openvino"


def test_its_tolerance_is_wider_than_a_float_variants_but_limited(build: BuildDirectory, variant: VariantDirectory) -> None:
    allowed = variant.config.tolerance.max_relative_difference
    assert build.record.tolerance.max_relative_difference < allowed < 0.2


@BACKENDS
def test_it_passes_its_golden_check_on_every_backend(build: BuildDirectory, variant: VariantDirectory, backend: str) -> None:
    assert check_golden(load_session(variant, backend=backend), variant, build.graph).failure is None


@BACKENDS
def test_broken_weights_fail_the_golden_check(build: BuildDirectory, tmp_path: Path, backend: str) -> None:
    broken = VariantDirectory.write(tmp_path, build.variant(NAME).config)
    for kind in build.variant(NAME).layers():
        broken.file(kind).write_bytes(build.variant(NAME).file(kind).read_bytes())
    weights = broken.file(LayerKind.HEAD_WEIGHTS)
    weights.write_bytes(np.frombuffer(weights.read_bytes(), np.uint8)[::-1].tobytes())
    assert check_golden(load_session(broken, backend=backend), broken, build.graph).failure is not None


def test_the_report_has_its_sqnr_and_its_float_operators(build: BuildDirectory, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert CliRunner().invoke(main, ["report", str(build.path), "-o", str(page)]).exit_code == 0
    detail = json.loads((build.reports / f"detail-{NAME}.json").read_bytes())
    assert [one["operator"] for one in detail["float_fallbacks"]] == ["Softmax"]
    assert min(layer["sqnr_db"] for layer in detail["layers"]) > 15
    assert NAME in page.read_text("utf-8")


def test_a_package_has_it_for_the_profiles_with_openvino(build: BuildDirectory, tmp_path: Path) -> None:
    package = tmp_path / "package"
    result = CliRunner().invoke(main, ["packages", "build", str(build.path), "-o", str(package), "--name", "digits"])
    assert result.exit_code == 0, result.stderr
    packed = read_package(OciLayout.open(package)).variant(NAME)
    assert packed.config.profiles == ("generic-x86-64", "x86-64-vnni")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--scheme", "fp16"],
            "--backend must be onnxruntime, or openvino with --scheme int8, not openvino with --scheme fp16: "
            "openvino also runs the variants for onnxruntime",
            id="a scheme that NNCF does not have",
        ),
        pytest.param(
            ["--scheme", "int8", "--calibration", "entropy"],
            "--calibration and --equalize are for --backend onnxruntime: "
            "int8 for openvino always covers the full range of the samples",
            id="a calibration that NNCF does not have",
        ),
    ],
)
def test_unsupported_options_are_refused_in_one_line(build: BuildDirectory, options: list[str], message: str) -> None:
    result = quantize(build.path, *options)
    assert (result.exit_code, result.stderr) == (2, f"edgewright: {message}\n")


def test_without_nncf_the_command_names_the_package_to_install(build: BuildDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantize.int8.openvino.find_spec", lambda name: None)
    result = quantize(build.path, "--scheme", "int8")
    message = "int8 for openvino needs the package nncf, which is not installed: pip install 'edgewright[nncf]'"
    assert (result.exit_code, result.stderr) == (2, f"edgewright: {message}\n")
