"""The variant that a profile gets, and the sentence that each variant gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.contracts.oci import Platform
from edgewright.contracts.variant import Precision, TensorSpec, Tolerance, VariantConfig
from hardware_profiles.catalog import load_profile, shipped_profiles
from hardware_profiles.hardware_profile import INT8_TYPES, NPU_HASH, HardwareProfile, Limits
from hardware_profiles.match import Match, fits, match, platforms_of

MIB = 1 << 20


def variant(name: str, precision: Precision, size_bytes: int = MIB, **overrides: Any) -> VariantConfig:
    fields: dict[str, Any] = {
        "variant": name,
        "backend": "onnxruntime",
        "precision": precision,
        "inputs": (TensorSpec(name="x", dtype="float32", shape=("N", 4)),),
        "outputs": (TensorSpec(name="y", dtype="float32", shape=("N", 2)),),
        "tolerance": Tolerance(max_relative_difference=0.1, min_agreement=0.9),
        "size_bytes": size_bytes,
    }
    return VariantConfig(**{**fields, **overrides})


FP32 = variant("fp32", Precision.FP32, 4 * MIB)
FP16 = variant("fp16", Precision.FP16, 2 * MIB)
INT8 = variant("int8", Precision.INT8, 1 * MIB)


def npu_variant(built_for: str | None) -> VariantConfig:
    properties = {} if built_for is None else {NPU_HASH: built_for}
    return variant("npu", Precision.NPU_INT8, backend="npu", properties=properties)


@pytest.mark.parametrize(
    ("profile", "chosen"),
    [
        ("generic-x86-64", "fp32"),
        ("x86-64-vnni", "int8"),
        ("raspberry-pi-4", "int8"),
        ("raspberry-pi-5", "int8"),
        ("jetson-orin-nano", "fp16"),
        ("npu-sim-4", None),
    ],
)
def test_each_shipped_profile_gets_its_preferred_variant(profile: str, chosen: str | None) -> None:
    assert match(load_profile(profile), [FP32, FP16, INT8]).chosen == chosen


def test_every_variant_gets_one_plain_sentence() -> None:
    assert match(load_profile("raspberry-pi-4"), [FP32, FP16, INT8]).sentences == (
        "fp32 fits, but raspberry-pi-4 prefers int8 to fp32.",
        "fp16 does not fit: it is fp16, and raspberry-pi-4 runs int8, mixed, int8-dynamic, fp32, mxint8.",
        "int8 is chosen: raspberry-pi-4 prefers int8 most.",
    )


INTEGERS = [
    variant("int8", Precision.INT8, 10, properties={INT8_TYPES: "u8s8"}),
    variant("int8-avx2", Precision.INT8, 10, properties={INT8_TYPES: "u8s7"}),
    variant("int8-arm64", Precision.INT8, 11, properties={INT8_TYPES: "s8s8"}),
]


@pytest.mark.parametrize(
    ("profile", "chosen"),
    [
        ("generic-x86-64", "int8-avx2"),
        ("x86-64-vnni", "int8"),
        ("raspberry-pi-4", "int8-arm64"),
        ("jetson-orin-nano", "int8-arm64"),
    ],
)
def test_of_two_in_the_same_precision_the_one_with_the_processors_integer_types_is_chosen(profile: str, chosen: str) -> None:
    assert match(load_profile(profile), INTEGERS).chosen == chosen


def test_a_variant_with_other_integer_types_is_explained() -> None:
    assert match(load_profile("raspberry-pi-5"), INTEGERS).sentences[0] == (
        "int8 fits, but its integer types, u8s8, suit raspberry-pi-5 less than those of int8-arm64."
    )


def test_mxint8_weights_count_as_the_floats_that_the_runtime_expands_them_to() -> None:
    large = variant("mxint8", Precision.MXINT8, 120 * MIB)
    assert fits(load_profile("raspberry-pi-4"), large) == "needs about 1056 MiB of memory, and raspberry-pi-4 has 1024 MiB"
    assert fits(load_profile("raspberry-pi-4"), replace(large, precision=Precision.INT8)) is None


def test_of_two_in_the_same_precision_the_smaller_is_chosen() -> None:
    small, large = variant("small", Precision.INT8, 10), variant("large", Precision.INT8, 20)
    result = match(load_profile("x86-64-vnni"), [large, small])
    assert result.chosen == "small"
    assert result.sentences[0] == "large fits, but small is smaller (10 against 20 bytes)."


def test_of_two_equals_the_first_by_name_is_chosen() -> None:
    result = match(load_profile("x86-64-vnni"), [variant("b", Precision.INT8), variant("a", Precision.INT8)])
    assert result.chosen == "a"
    assert result.sentences[0] == "b fits equally well; a comes first by name."


def test_without_the_best_precision_the_next_one_is_chosen() -> None:
    assert match(load_profile("jetson-orin-nano"), [FP32]) == Match(
        "fp32", ("fp32 is chosen: jetson-orin-nano prefers fp32 most, of the variants that fit.",)
    )


def test_without_variants_nothing_is_chosen() -> None:
    assert match(load_profile("npu-sim-4"), []) == Match(None, ())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        pytest.param(FP32, None, id="fits"),
        pytest.param(npu_variant("x"), "needs the backend npu, and raspberry-pi-4 has onnxruntime", id="backend"),
        pytest.param(FP16, "is fp16, and raspberry-pi-4 runs int8, mixed, int8-dynamic, fp32, mxint8", id="precision"),
        pytest.param(
            variant("vgg", Precision.FP32, 528 * MIB),
            "needs about 1152 MiB of memory, and raspberry-pi-4 has 1024 MiB",
            id="memory",
        ),
    ],
)
def test_a_variant_that_does_not_fit_has_a_reason(config: VariantConfig, reason: str | None) -> None:
    assert fits(load_profile("raspberry-pi-4"), config) == reason


def test_a_variant_over_the_limit_of_the_profile_does_not_fit() -> None:
    pi = load_profile("raspberry-pi-4")
    fields = {name: getattr(pi, name) for name in HardwareProfile.__slots__}
    limited = HardwareProfile(**{**fields, "limits": Limits(max_variant_mib=3)})
    assert fits(limited, FP32) == "has 4.0 MiB, and raspberry-pi-4 takes at most 3 MiB"


def test_a_program_fits_only_the_npu_that_it_was_compiled_for() -> None:
    board = load_profile("npu-sim-4")
    assert board.npu is not None
    profile_hash = board.npu.hash.hex()
    here = f"npu-sim-4 has the NPU {profile_hash[:12]}"
    assert fits(board, npu_variant(profile_hash)) is None
    assert fits(board, npu_variant("00" * 32)) == f"was compiled for the NPU 000000000000, and {here}"
    assert fits(board, npu_variant(None)) == f"does not name the NPU that it was compiled for, and {here}"


def test_platforms_have_oci_names() -> None:
    assert platforms_of(load_profile("raspberry-pi-5")) == (Platform(os="linux", architecture="arm64"),)
    assert platforms_of(load_profile("x86-64-vnni")) == (Platform(os="linux", architecture="amd64"),)


def test_a_board_on_a_serial_line_has_both_platforms() -> None:
    assert [platform.architecture for platform in platforms_of(load_profile("ulx3s-85f"))] == ["amd64", "arm64"]


configs = st.builds(
    variant,
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(list(Precision)),
    st.integers(1, 4 << 30),
    backend=st.sampled_from(["onnxruntime", "npu"]),
)


@settings(deadline=None)  # a busy machine must not fail the test
@given(st.sampled_from(shipped_profiles()), st.lists(configs, unique_by=lambda config: config.variant))
def test_law_the_choice_fits_and_does_not_depend_on_the_order(profile: HardwareProfile, variants: list[VariantConfig]) -> None:
    result = match(profile, variants)
    fitting = {config.variant for config in variants if fits(profile, config) is None}
    assert result.chosen in fitting or (result.chosen is None and not fitting)
    assert match(profile, variants[::-1]).chosen == result.chosen
    assert len(result.sentences) == len(variants)
