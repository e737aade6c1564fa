"""Which variant a machine gets, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.contracts.oci import Platform
from edgewright.contracts.variant import Precision, TensorSpec, Tolerance, VariantConfig
from hardware_profiles.catalog import load_profile, shipped_profiles
from hardware_profiles.hardware_profile import NPU_HASH, HardwareProfile, Limits
from hardware_profiles.match import Match, fits, match, platform_of, platforms_of

MIB = 1 << 20


def variant(name: str, precision: Precision, size_bytes: int = MIB, **changes: Any) -> VariantConfig:
    fields: dict[str, Any] = {
        "variant": name,
        "backend": "onnxruntime",
        "precision": precision,
        "inputs": (TensorSpec(name="x", dtype="float32", shape=("N", 4)),),
        "outputs": (TensorSpec(name="y", dtype="float32", shape=("N", 2)),),
        "tolerance": Tolerance(max_relative_difference=0.1, min_agreement=0.9),
        "size_bytes": size_bytes,
    }
    return VariantConfig(**{**fields, **changes})


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
def test_each_shipped_profile_gets_what_it_prefers(profile: str, chosen: str | None) -> None:
    assert match(load_profile(profile), [FP32, FP16, INT8]).chosen == chosen


def test_every_variant_gets_one_plain_sentence() -> None:
    assert match(load_profile("raspberry-pi-4"), [FP32, FP16, INT8]).sentences == (
        "fp32 fits, but raspberry-pi-4 prefers int8 to fp32.",
        "fp16 does not fit: it is fp16, and raspberry-pi-4 runs int8, mixed, fp32.",
        "int8 is chosen: raspberry-pi-4 prefers int8 most.",
    )


def test_of_two_in_the_same_precision_the_smaller_is_taken() -> None:
    small, large = variant("small", Precision.INT8, 10), variant("large", Precision.INT8, 20)
    found = match(load_profile("x86-64-vnni"), [large, small])
    assert found.chosen == "small"
    assert found.sentences[0] == "large fits, but small is smaller (10 against 20 bytes)."


def test_of_two_equals_the_first_by_name_is_taken() -> None:
    found = match(load_profile("x86-64-vnni"), [variant("b", Precision.INT8), variant("a", Precision.INT8)])
    assert found.chosen == "a"
    assert found.sentences[0] == "b fits equally well; a comes first by name."


def test_without_the_best_precision_the_next_one_is_taken() -> None:
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
        pytest.param(FP16, "is fp16, and raspberry-pi-4 runs int8, mixed, fp32", id="precision"),
        pytest.param(
            variant("vgg", Precision.FP32, 528 * MIB),
            "needs about 1152 MiB of memory, and raspberry-pi-4 has 1024 MiB",
            id="memory",
        ),
    ],
)
def test_what_does_not_fit_has_a_reason(config: VariantConfig, reason: str | None) -> None:
    assert fits(load_profile("raspberry-pi-4"), config) == reason


def test_a_limit_of_the_profile_holds() -> None:
    pi = load_profile("raspberry-pi-4")
    fields = {name: getattr(pi, name) for name in HardwareProfile.__slots__}
    limited = HardwareProfile(**{**fields, "limits": Limits(max_variant_mib=3)})
    assert fits(limited, FP32) == "has 4.0 MiB, and raspberry-pi-4 takes at most 3 MiB"


def test_a_program_fits_only_the_npu_that_it_was_compiled_for() -> None:
    board = load_profile("npu-sim-4")
    assert board.npu is not None
    own = board.npu.hash.hex()
    assert fits(board, npu_variant(own)) is None
    reason = fits(board, npu_variant("00" * 32))
    assert reason == f"was compiled for the NPU 000000000000, and npu-sim-4 has the NPU {own[:12]}"
    assert fits(board, npu_variant(None)) == f"was compiled for the NPU of no profile, and npu-sim-4 has the NPU {own[:12]}"


def test_platforms_are_in_the_names_of_oci() -> None:
    assert platform_of(load_profile("raspberry-pi-5")) == Platform(os="linux", architecture="arm64")
    assert platform_of(load_profile("x86-64-vnni")) == Platform(os="linux", architecture="amd64")


def test_a_board_on_a_serial_line_belongs_to_both_platforms() -> None:
    assert [platform.architecture for platform in platforms_of(load_profile("ulx3s-85f"))] == ["amd64", "arm64"]


configs = st.builds(
    variant,
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(list(Precision)),
    st.integers(1, 4 << 30),
    backend=st.sampled_from(["onnxruntime", "npu"]),
)


@settings(deadline=None)  # a busy machine is no reason to fail
@given(st.sampled_from(shipped_profiles()), st.lists(configs, unique_by=lambda config: config.variant))
def test_law_the_choice_fits_and_does_not_depend_on_the_order(profile: HardwareProfile, variants: list[VariantConfig]) -> None:
    found = match(profile, variants)
    fitting = {config.variant for config in variants if fits(profile, config) is None}
    assert found.chosen in fitting or (found.chosen is None and not fitting)
    assert match(profile, variants[::-1]).chosen == found.chosen
    assert len(found.sentences) == len(variants)
