"""`bench --export ort-package`: stock ONNX Runtime opens the package, takes the measured winner and scores equally."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result

from accel.backends.ort_package import write_ort_package
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import Precision
from tests.support.device_packages import Built, Recipe, build


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def export(folder: Path, target: Path, *options: str) -> Result:
    arguments = ["bench", str(folder), "--runs", "1", "--threads", "1", "--export", "ort-package", str(target), *options]
    return CliRunner().invoke(main, arguments)


def selected(package: Path) -> onnxruntime.ModelPackageComponentContext:
    options = onnxruntime.ModelPackageOptions(onnxruntime.SessionOptions())
    return onnxruntime.ModelPackageContext(str(package)).select_component("model", options)


@pytest.mark.parametrize(("slow", "winner"), [("fp32", "int8"), ("int8", "fp32")])
def test_onnxruntime_takes_the_variant_that_was_measured_fastest(tmp_path: Path, slow: str, winner: str) -> None:
    built: Built = build(tmp_path, Recipe(others=(Precision.INT8,), slow=(slow,)))
    result = export(tmp_path / "layout", tmp_path / "ort", "--json")
    assert result.exit_code == 0, result.output
    order = list(json.loads(result.stdout)["exported"]["median_ms"])
    assert order == [winner, slow]
    chosen = selected(tmp_path / "ort")
    assert chosen.get_selected_variant_name() == winner
    (scores,) = chosen.create_session().run(None, {"x": built.samples})
    np.testing.assert_allclose(scores, built.answers, rtol=1e-3, atol=1e-2)


def test_a_variant_that_onnxruntime_cannot_load_is_left_out_with_its_reason(tmp_path: Path) -> None:
    build(tmp_path, Recipe(others=(Precision.INT8,), broken=("int8",)))
    written = write_ort_package(tmp_path / "ort", BuildDirectory.open(tmp_path / "build").variants(), threads=1)
    assert list(written.median_ms) == ["fp32"]
    assert "not an ONNX graph that onnxruntime can load" in written.left_out["int8"]
    assert selected(tmp_path / "ort").get_selected_variant_name() == "fp32"
    assert [path.name for path in (tmp_path / "ort" / "model").iterdir() if path.is_dir()] == ["fp32"]


def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    into_full = export(tmp_path / "build", tmp_path / "full")
    assert (into_full.exit_code, "must be a new or an empty directory" in into_full.output) == (2, True)
    elsewhere = export(tmp_path / "build", tmp_path / "new", "--backend", "openvino")
    assert (elsewhere.exit_code, "must measure with onnxruntime, not openvino" in elsewhere.output) == (2, True)
    graph = export(next((tmp_path / "build").rglob("graph.onnx")), tmp_path / "new")
    assert (graph.exit_code, "but this is a single graph" in graph.output) == (2, True)
    assert not (tmp_path / "new").exists()
