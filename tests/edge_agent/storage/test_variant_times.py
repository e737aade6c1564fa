"""The choice by benchmark results: the candidates, the decision, the stored results and their validity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from accel.backends.backend import Backend
from accel.backends.onnxruntime_cpu import OnnxRuntime
from edge_agent.packages.choose import candidates, choose, choose_fastest
from edge_agent.packages.measure import basis_of
from edge_agent.storage.variant_times import VariantTimes, format_ms, load, load_all, reset, store
from edgewright.contracts import wire
from edgewright.contracts.package import Package
from edgewright.contracts.variant import Precision
from edgewright.errors import NotFoundError
from hardware_profiles.catalog import load_profile
from hardware_profiles.hardware_profile import NPU_HASH, HardwareProfile
from tests.support.device_packages import Recipe, build

BASIS = wire.digest_of(b"this machine")
TIMES = VariantTimes(
    model="digits",
    version=3,
    measured_at=datetime(2026, 5, 4, tzinfo=UTC),
    basis=BASIS,
    fastest="int8",
    median_ms={"fp32": 9.04, "int8": 0.4104},
    failures={"fp16": "it does not load"},
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Variants fp32, fp16 and int8."""
    return build(tmp_path_factory.mktemp("three"), Recipe(others=(Precision.FP16, Precision.INT8))).package


@pytest.fixture
def profile() -> HardwareProfile:
    """A profile that prefers fp32."""
    return load_profile("generic-x86-64")


def changed(package: Package, variant: str, **config: Any) -> Package:
    """Return the package with a changed config of one variant."""
    variants = tuple(
        replace(one, config=replace(one.config, **config)) if one.config.variant == variant else one for one in package.variants
    )
    return replace(package, variants=variants)


def names(package: Package, profile: HardwareProfile) -> list[str]:
    return [one.config.variant for one in candidates(profile, package, choose(profile, package))]


def on_npu_and_processor(*precisions: str) -> HardwareProfile:
    """Return a profile of an NPU board whose host also runs variants."""
    board = load_profile("npu-sim-4")
    return replace(board, precisions=tuple(map(Precision, precisions)), backends=("npu", "onnxruntime"))


def with_npu_variant(package: Package, profile: HardwareProfile) -> Package:
    assert profile.npu is not None
    return changed(package, "int8", backend="npu", precision=Precision.NPU_INT8, properties={NPU_HASH: profile.npu.hash.hex()})


def test_all_fitting_variants_are_candidates_the_profiles_choice_first(package: Package, profile: HardwareProfile) -> None:
    assert sorted(names(package, profile)) == ["fp16", "fp32", "int8"]
    assert names(package, profile)[0] == "fp32"


def test_a_variant_that_does_not_fit_is_not_a_candidate(package: Package, profile: HardwareProfile) -> None:
    assert names(changed(package, "fp16", size_bytes=1 << 40), profile) == ["fp32", "int8"]


def test_a_single_fitting_variant_is_not_measured(package: Package, profile: HardwareProfile) -> None:
    assert names(package, replace(profile, precisions=(Precision.INT8,))) == []


def test_a_preferred_variant_for_the_npu_is_chosen_without_measuring(package: Package) -> None:
    profile = on_npu_and_processor("npu-int8", "fp32", "fp16")
    assert names(with_npu_variant(package, profile), profile) == []


def test_if_the_processor_is_preferred_only_its_variants_are_measured(package: Package) -> None:
    profile = on_npu_and_processor("fp32", "fp16", "npu-int8")
    assert names(with_npu_variant(package, profile), profile) == ["fp32", "fp16"]


def test_each_variant_gets_a_sentence(package: Package, profile: HardwareProfile) -> None:
    choice = choose_fastest(package, choose(profile, package), TIMES, version=3)
    assert choice.variant.config.variant == "int8"
    assert sorted(choice.sentences) == [
        "fp16 fits, but could not be measured here: it does not load.",
        "fp32 fits, but int8 was measured faster here (0.410 ms against 9.0 ms).",
        "int8 is chosen: measured fastest here, 0.410 ms; fp32 9.0 ms.",
    ]


def test_the_profiles_choice_stays_if_no_other_is_clearly_faster(package: Package, profile: HardwareProfile) -> None:
    close = replace(TIMES, median_ms={"fp32": 4.1, "int8": 4.0}, fastest="int8")
    choice = choose_fastest(package, choose(profile, package), close, version=3)
    assert choice.variant.config.variant == "fp32"
    assert sorted(choice.sentences)[1:] == [
        "fp32 is chosen: the profile prefers it, and none was measured clearly faster here, 4.1 ms; int8 4.0 ms.",
        "int8 fits, but was not measured clearly faster than fp32 here (4.0 ms against 4.1 ms).",
    ]


def test_the_sentences_name_the_measured_version_if_it_is_another_one(package: Package, profile: HardwareProfile) -> None:
    choice = choose_fastest(package, choose(profile, package), TIMES, version=4)
    assert sorted(choice.sentences) == [
        "fp16 fits, but could not be measured here with version 3: it does not load.",
        "fp32 fits, but int8 was measured faster here with version 3 (0.410 ms against 9.0 ms).",
        "int8 is chosen: measured fastest here with version 3, 0.410 ms; fp32 9.0 ms.",
    ]


def test_a_variant_that_does_not_fit_keeps_its_reason(package: Package, profile: HardwareProfile) -> None:
    large = changed(package, "fp16", size_bytes=1 << 40)
    choice = choose_fastest(large, choose(profile, large), replace(TIMES, failures={}), version=3)
    assert [one for one in choice.sentences if one.startswith("fp16 does not fit: it needs about")]


@pytest.mark.parametrize(("median_ms", "text"), [(1234.56, "1234.6 ms"), (1.0, "1.0 ms"), (0.0123, "0.012 ms")])
def test_a_time_is_formatted_with_its_significant_digits(median_ms: float, text: str) -> None:
    assert format_ms(median_ms) == text


def basis(package: Package, backends: Sequence[Backend] = (OnnxRuntime(),), threads: int | None = 1) -> str:
    return basis_of(package.variants, backends, threads)


def test_the_order_of_the_variants_and_retraining_do_not_change_the_basis(package: Package) -> None:
    reversed_order = replace(package, variants=package.variants[::-1])
    assert basis(reversed_order) == basis(package)
    assert basis(changed(package, "fp32", size_bytes=package.variant("fp32").config.size_bytes + 16)) == basis(package)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda package: basis(replace(package, variants=package.variants[:2])), id="fewer variants"),
        pytest.param(lambda package: basis(changed(package, "fp32", precision=Precision.MIXED)), id="another precision"),
        pytest.param(lambda package: basis(changed(package, "fp32", backend="openvino")), id="another backend"),
        pytest.param(lambda package: basis(changed(package, "fp32", size_bytes=1 << 30)), id="another network"),
        pytest.param(lambda package: basis(changed(package, "fp32", inputs=())), id="other inputs"),
        pytest.param(lambda package: basis(package, threads=2), id="other threads"),
        pytest.param(lambda package: basis(package, backends=()), id="other software"),
    ],
)
def test_results_are_valid_only_on_the_same_basis(package: Package, change: Callable[[Package], str]) -> None:
    assert change(package) != basis(package)


def test_stored_results_are_loaded_only_on_the_same_basis(tmp_path: Path) -> None:
    store(tmp_path, TIMES)
    assert load(tmp_path, "digits", BASIS) == TIMES
    assert load(tmp_path, "digits", wire.digest_of(b"another machine")) is None
    assert load(tmp_path, "faces", BASIS) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: raw[:40], id="truncated"),
        pytest.param(lambda raw: b"", id="empty"),
        pytest.param(lambda raw: b"\xff\xfe" + raw, id="not text"),
        pytest.param(lambda raw: raw.replace(b'"fastest":"int8"', b'"fastest":"int9"'), id="a variant without a time"),
    ],
)
def test_a_damaged_record_is_ignored(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store(tmp_path, TIMES)
    path = tmp_path / "measured" / "digits.json"
    path.write_bytes(damage(path.read_bytes()))
    assert load(tmp_path, "digits", BASIS) is None
    assert load_all(tmp_path) == ()


def test_the_results_of_one_model_or_of_all_are_reset(tmp_path: Path) -> None:
    for model in ("digits", "faces", "signs"):
        store(tmp_path, replace(TIMES, model=model))
    assert reset(tmp_path, "faces") == ("faces",)
    assert [times.model for times in load_all(tmp_path)] == ["digits", "signs"]
    assert reset(tmp_path, None) == ("digits", "signs")
    assert load_all(tmp_path) == ()


def test_a_reset_of_a_model_without_results_names_those_with_results(tmp_path: Path) -> None:
    store(tmp_path, TIMES)
    message = "^'digit' must have benchmark results, but it does not; known: digits$"
    with pytest.raises(NotFoundError, match=message):
        reset(tmp_path, "digit")
