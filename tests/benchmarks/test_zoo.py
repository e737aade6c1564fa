"""The zoo's samples, comparison and table, without any package or model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.measuring.zoo_compare import agreement, difference, matched, sqnr_db
from benchmarks.measuring.zoo_model import attempt
from benchmarks.measuring.zoo_table import as_markdown, is_equal, verdict
from benchmarks.networks.zoo_models import BINARY, MODELS
from benchmarks.networks.zoo_packages import PACKAGES
from benchmarks.networks.zoo_samples import Mask, Pictures, Recipe, Rows, Smooth, Sounds, Tokens
from edgewright.errors import ModelError


def measured(sqnr: float, ms: float, share: float | None = None) -> dict[str, Any]:
    return {"sqnr_db": sqnr, "agreement": share, "ms": ms, "bytes": 10}


def row(*, variants: dict[str, Any], peers: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    float_row = {"fp32": {"bytes": 40, "ms": 4.0}}
    known = {"name": "a model", "package": "p", "version": "1", "kind": "onnx", "difference": 1e-6, "nodes": 3}
    return {**known, "variants": {**float_row, **variants}, "peers": peers or {}, **others}


def test_the_catalogue_has_thirty_packages_and_every_model_is_of_one_of_them() -> None:
    assert len(PACKAGES) >= 30
    assert {model.package for model in MODELS} == set(PACKAGES)
    assert len({model.name for model in MODELS}) == len(MODELS)
    assert all(len(package.sha256) == 64 for package in PACKAGES.values())


@pytest.mark.parametrize(
    ("ours", "peers", "accurate", "fast", "chosen"),
    [
        pytest.param({"int8": measured(30, 1)}, {"static": measured(31, 1)}, True, True, "int8", id="within 1 dB"),
        pytest.param({"int8": measured(29, 1)}, {"static": measured(31, 1)}, False, False, "fp32", id="2 dB less"),
        pytest.param({"int8": measured(40, 1, 0.9)}, {"static": measured(31, 1, 0.95)}, False, False, "fp32", id="labels"),
        pytest.param({"int8": measured(30, 1.2)}, {"static": measured(30, 1)}, True, False, "int8", id="slow"),
        pytest.param(
            {"int8": measured(5, 1), "int8-dynamic": measured(30, 1)},
            {"static": measured(9, 3), "dynamic": measured(30, 2)},
            True,
            True,
            "int8-dynamic",
            id="the better scheme counts",
        ),
        pytest.param({"int8": {"refused": "no"}}, {"static": measured(9, 5)}, False, True, "fp32", id="refused"),
        pytest.param(
            {"int8": measured(30, 2)}, {"static": measured(3, 1), "dynamic": measured(30, 2)}, True, True, "int8", id="fast noise"
        ),
    ],
)
def test_the_verdict_compares_with_the_more_accurate_peer(
    ours: dict[str, Any], peers: dict[str, Any], accurate: bool, fast: bool, chosen: str
) -> None:
    one = verdict(row(variants=ours, peers=peers))
    assert one is not None
    assert (one.accurate, one.fast, one.chosen) == (accurate, fast, chosen)


def test_models_without_a_peer_or_without_layers_are_not_compared() -> None:
    trees = {"int8-dynamic": {"refused": "ModelError: int8-dynamic needs layers with weights (MatMul), but …"}}
    assert verdict(row(variants={"int8": measured(30, 1)}, peers={"static": {"refused": "InvalidGraph"}})) is None
    assert verdict(row(variants=trees, peers={"static": measured(7, 1)})) is None
    quantized = {
        "int8-dynamic": {"refused": "ModelError: the model must be a float model, but it is already quantized (MatMulInteger)"}
    }
    assert verdict(row(variants=quantized, peers={"dynamic": measured(150, 1)})) is None


def test_a_quantized_source_may_differ_by_a_rounding() -> None:
    assert is_equal(row(variants={}, difference=9e-5))
    assert not is_equal(row(variants={}, difference=2e-4))
    assert is_equal(row(variants={}, difference=4e-3, kind="tensorflow-lite"))
    assert not is_equal(row(variants={}, difference=None))


def test_the_table_has_every_refusal_without_folders_of_the_machine() -> None:
    rows = [
        row(
            variants={"int8": {"refused": "ModelError: /tmp/x/build: int8 needs | layers"}},
            golden={"fp32": "8 golden samples match"},
        ),
        {"name": "b", "package": "q", "version": "2", "convert": "ModelError: /tmp/q/b.pkl: cannot be opened", "failure": None},
        {"name": "c", "package": "q", "version": "2", "failure": "not done after 300 s"},
    ]
    text = as_markdown(rows, "a machine")
    assert "3 models of 2 packages; 1 convert, and 1 of them are proved equal" in text
    assert "| a model | int8 | build: int8 needs \\| layers |" in text
    assert "| b | convert | b.pkl: cannot be opened |" in text
    assert "| c | worker | not done after 300 s |" in text
    assert "/tmp" not in text


def test_differences_are_relative_per_output_and_integers_must_be_equal() -> None:
    reference = {"large": np.array([100.0, 0.0]), "small": np.array([0.01]), "label": np.array([3])}
    near = {"large": np.array([100.0, 0.0]), "small": np.array([0.011]), "label": np.array([3])}
    assert difference(reference, near) == pytest.approx(0.1)
    assert difference(reference, {**near, "label": np.array([4])}) == float("inf")
    assert difference(reference, {**near, "small": np.array([np.nan])}) == float("inf")


def test_the_ratio_is_that_of_the_worst_float_output() -> None:
    reference = {"a": np.ones(10), "b": np.ones(10), "label": np.arange(10)}
    assert sqnr_db(reference, {**reference, "b": np.full(10, 1.1)}) == pytest.approx(20.0)
    assert sqnr_db({"label": np.arange(3)}, {"label": np.arange(3)}) is None


def test_labels_are_compared_along_the_axis_of_classes() -> None:
    reference, other = {"y": np.array([[0.1, 0.9], [0.8, 0.2]])}, {"y": np.array([[0.6, 0.4], [0.7, 0.3]])}
    assert agreement(reference, other, -1) == 0.5
    assert agreement(reference, other, BINARY) == 0.5
    assert agreement(reference, other, None) is None


def test_outputs_are_matched_by_name_or_else_by_position() -> None:
    one, two = np.ones(1), np.ones(2)
    assert matched({"a": one, "b": two}, {"b": two, "a": one})["b"] is two
    assert matched({"a": one, "b": two}, {"x": one, "y": two})["b"] is two


def test_a_failed_step_leaves_its_reason_and_a_traceback_only_where_it_is_a_fault() -> None:
    def refuse() -> None:
        raise ModelError("m.onnx: no")

    def fail() -> None:
        raise KeyError("x")

    values: dict[str, Any] = {}
    assert attempt(values, "convert", refuse) is None
    assert values == {"convert": "ModelError: m.onnx: no"}
    attempt(values, "parity", fail)
    assert values["parity"] == "traceback: KeyError: 'x'"
    assert "in fail" in values["tracebacks"][0]


@pytest.mark.parametrize(
    ("recipe", "shape", "dtype"),
    [
        pytest.param(Pictures(height=20, width=30), (3, 3, 20, 30), "float32", id="pictures"),
        pytest.param(
            Pictures(height=16, width=48, channels=1, channels_first=False, text=True), (3, 16, 48, 1), "float32", id="text"
        ),
        pytest.param(Sounds(length=400, axis=True), (3, 400, 1), "float32", id="sounds"),
        pytest.param(Smooth(shape=(4, 5)), (3, 4, 5), "float32", id="smooth"),
        pytest.param(Tokens(shape=(9,), vocabulary=50, padding=0), (3, 9), "int64", id="tokens"),
        pytest.param(Rows(columns=4), (3, 4), "float32", id="rows"),
    ],
)
def test_samples_are_the_same_on_every_call_and_differ_from_each_other(
    recipe: Recipe, shape: tuple[int, ...], dtype: str
) -> None:
    samples = recipe(3)
    assert (samples.shape, samples.dtype) == (shape, np.dtype(dtype))
    assert (samples == recipe(3)).all()
    assert (samples[0] != samples[1]).any()


def test_a_mask_covers_the_tokens_that_are_no_padding() -> None:
    tokens, mask = Tokens(shape=(12,), vocabulary=50, first=1, padding=0)(8), Mask(shape=(12,))(8)
    assert ((tokens != 0) == (mask == 1)).all()
    assert (mask == 0).any()


def test_results_are_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps(row(variants={"int8": measured(30, 1)})), "utf-8")
    assert "30.0 dB, 1 ms" in as_markdown([json.loads(path.read_text("utf-8"))], "m")
