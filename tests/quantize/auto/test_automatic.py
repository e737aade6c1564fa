"""`quantize --scheme auto`: every candidate is in the table with its reason, and the build holds the front."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgewright.contracts.build_directory import BuildDirectory
from quantize.auto import automatic
from quantize.auto.automatic import JOURNAL, quantize_auto
from quantize.cli import command
from quantize.quantization import Quantized, QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.quantize_builds import build_without_weights, fresh_build, training_samples

LATENCIES = {"fp32": 2.0, "fp16": 4.0, "int8": 1.0, "int8-dynamic": 2.0, "mxint8": 2.0, "int8-openvino": 1.0}
REFUSED = "needs real samples for calibration, but none are given: add --samples X.npz"


@pytest.fixture
def fixed_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    def latencies(variants: Any, samples: Any) -> Mapping[str, float]:
        return {one.config.variant: LATENCIES[one.config.variant] for one in variants}

    monkeypatch.setattr(automatic, "_latencies", latencies)
    monkeypatch.setattr(automatic, "find_spec", lambda name: None)  # NNCF takes a minute


@pytest.mark.usefixtures("fixed_latencies")
def test_the_build_holds_the_front_and_the_table_every_candidate(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    rows = {row.variant: row for row in quantize_auto(build, QuantizeOptions(scheme=Scheme.INT8, samples=training_samples()))}
    assert set(rows) == {"fp32", "fp16", "int8", "int8-dynamic", "mxint8"}
    assert "fastest" in rows["int8"].reason
    assert {one.config.variant for one in build.variants()} == {name for name, row in rows.items() if row.kept}
    assert not any(row.kept for name, row in rows.items() if "is as accurate" in row.reason)
    assert not (build.reports / f"{JOURNAL}.json").exists()


def test_without_samples_the_command_names_the_schemes_that_need_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic, "find_spec", lambda name: None)
    build = fresh_build(tmp_path / "build")
    result = CliRunner().invoke(command, [str(build.path), "--scheme", "auto", "--json"], catch_exceptions=False)
    rows = {row["variant"]: row for row in json.loads(result.stdout)}
    assert rows["int8"]["reason"] == f"int8 {REFUSED}"
    assert rows["fp16"]["reason"] == f"fp16 {REFUSED}"
    assert rows["fp32"]["kept"]
    assert rows["mxint8"]["latency_ms"] > 0
    assert {one.config.variant for one in build.variants()} == {name for name, row in rows.items() if row["kept"]}


@pytest.mark.usefixtures("fixed_latencies")
def test_variants_that_lose_too_much_are_refused_and_those_of_other_schemes_stay(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    quantize(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=training_samples()))
    rows = {
        row.variant: row
        for row in quantize_auto(build, QuantizeOptions(scheme=Scheme.INT8, samples=training_samples(), max_drop=-0.5))
    }
    assert {row.variant for row in rows.values() if row.kept} == {"fp32"}
    assert "may lose at most" in rows["int8"].reason
    assert [one.config.variant for one in build.variants()] == ["fp32", "npu-int8"]


@pytest.mark.usefixtures("fixed_latencies")
def test_an_interrupted_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = fresh_build(tmp_path / "build")
    made: list[str] = []

    def until_int8(build: BuildDirectory, request: QuantizeOptions, **others: Any) -> Quantized:
        if request.scheme is Scheme.INT8 and "interrupted" not in made:
            made.append("interrupted")
            raise KeyboardInterrupt
        made.append(request.variant)
        return quantize(build, request, **others)

    monkeypatch.setattr(automatic, "quantize", until_int8)
    with pytest.raises(KeyboardInterrupt):
        quantize_auto(build, QuantizeOptions(scheme=Scheme.INT8, samples=training_samples()))
    assert {one.config.variant for one in build.variants()} == {"fp16", "fp32"}
    quantize_auto(build, QuantizeOptions(scheme=Scheme.INT8, samples=training_samples()))
    assert made == ["fp16", "interrupted", "int8", "int8-dynamic", "mxint8"]


@pytest.mark.usefixtures("fixed_latencies")
def test_a_graph_that_no_scheme_can_change_keeps_its_float_variant() -> None:
    rows = quantize_auto(build_without_weights(), QuantizeOptions(scheme=Scheme.INT8, samples=None))
    assert [row.variant for row in rows if row.kept] == ["fp32"]
    assert len(rows) == 5


@pytest.mark.parametrize("others", [["--scheme", "int8"], ["--backend", "openvino"]], ids=["a scheme", "a backend"])
def test_auto_is_given_alone(tmp_path: Path, others: list[str]) -> None:
    result = CliRunner().invoke(command, [str(fresh_build(tmp_path / "build").path), "--scheme", "auto", *others])
    assert "--scheme auto tries the schemes and backends that fit" in str(result.exception)
