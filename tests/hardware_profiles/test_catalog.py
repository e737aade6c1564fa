"""The profile catalogue: shipped profiles are valid, and an error in a profile of your own names file and field."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright.errors import NotFoundError, ProfileError
from hardware_profiles.catalog import load_profile, parse_profile, read_profile, shipped_profiles
from hardware_profiles.hardware_profile import Architecture

GOOD = """
name = "my-board"
description = "A board of mine."
architecture = "arm64"
cpu_cores = 2
memory_mib = 512
precisions = ["int8", "fp32"]
backends = ["onnxruntime"]
"""
NPU = """
[npu]
rows = 4
columns = 4
vector_lanes = 2
paired = false
instructions = 1024
weight_rows = 4096
activation_vectors = 4096
accumulator_depth = 256
parameter_groups = 512
clock_mhz = 50
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_shipped_profiles_are_these() -> None:
    assert [profile.name for profile in shipped_profiles()] == [
        "brainwave-class",
        "colorlight-i9",
        "generic-x86-64",
        "jetson-orin-nano",
        "npu-sim-4",
        "npu-sim-4-paired",
        "npu-sim-8",
        "npu-sim-8-large",
        "npu-sim-8-mx",
        "npu-sim-8-mx-large",
        "npu-sim-8-paired",
        "npu-sim-8-sdram",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "ulx3s-85f",
        "x86-64-vnni",
    ]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("generic-x86-64", "fp32"),
        ("x86-64-vnni", "int8"),
        ("raspberry-pi-4", "int8"),
        ("raspberry-pi-5", "int8"),
        ("jetson-orin-nano", "fp16"),
        ("colorlight-i9", "npu-int8"),
    ],
)
def test_each_profile_prefers_the_precision_that_suits_its_machine(name: str, first: str) -> None:
    assert load_profile(name).precisions[0] == first


def test_every_file_is_named_after_its_profile() -> None:
    files = Path(__file__).parents[2].joinpath("hardware_profiles/profiles").glob("*.toml")
    assert {path.stem: read_profile(path).name for path in files} == {
        profile.name: profile.name for profile in shipped_profiles()
    }


def test_a_profile_of_your_own_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_profile(path).architecture is Architecture.ARM64
    assert load_profile(str(path)) == load_profile(path)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(NotFoundError, match=r"no hardware profile is called 'raspberry-pi-6'; known: raspberry-pi-5"):
        load_profile("raspberry-pi-6")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.toml: the profile cannot be read: No such file"):
        load_profile("nowhere.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(GOOD + "memory_gb = 2\n", "p.toml: unknown field memory_gb; known: memory_mib", id="unknown field"),
        pytest.param(GOOD + "[limits]\nmax_mib = 2\n", "unknown field limits.max_mib; known: max_variant_mib", id="in a table"),
        pytest.param(changed("512", "-512"), "p.toml: memory_mib must be positive, not -512", id="negative memory"),
        pytest.param(changed("cpu_cores = 2", "cpu_cores = 0"), "p.toml: cpu_cores must be positive, not 0", id="no cores"),
        pytest.param(changed("512", '"512"'), "p.toml: Expected `int`, got `str` - at `$.memory_mib`", id="text for a number"),
        pytest.param(changed("512", "true"), "p.toml: Expected `int`, got `bool` - at `$.memory_mib`", id="true for a number"),
        pytest.param(changed('"fp32"', '"fp31"'), "Invalid enum value 'fp31' - at `$.precisions[1]`", id="unknown precision"),
        pytest.param(changed("arm64", "arm"), "Invalid enum value 'arm' - at `$.architecture`", id="unknown architecture"),
        pytest.param(changed("arm64", "any"), "p.toml: architecture must be amd64 or arm64", id="any without npu"),
        pytest.param(changed('["int8", "fp32"]', "[]"), "precisions must have at least one entry, best first", id="no precision"),
        pytest.param(changed('"fp32"', '"int8"'), "precisions must have each entry once, not int8, int8", id="twice"),
        pytest.param(changed("my-board", "My Board"), "p.toml: a profile's name must be lower-case letters", id="name"),
        pytest.param(changed("A board of mine.", " "), "p.toml: description must be a sentence", id="no description"),
        pytest.param(changed("memory_mib = 512", ""), "p.toml: the field memory_mib is missing", id="missing field"),
        pytest.param(
            changed('"onnxruntime"', '"npu"'), "the backend npu and the [npu] table must occur together", id="npu without table"
        ),
        pytest.param(GOOD + NPU, "the backend npu and the [npu] table must occur together", id="table without npu"),
        pytest.param(
            GOOD + NPU.replace("\nrows = 4", "\nrows = 0"),
            "p.toml: my-board: rows must be a power of two over 1, not 0",
            id="no rows",
        ),
        pytest.param(GOOD + NPU + "lanes = 2\n", "p.toml: unknown field npu.lanes", id="unknown field of the npu"),
        pytest.param(
            changed('"onnxruntime"', '"npu"') + NPU + 'name = "x"\n',
            "p.toml: npu.name must be the profile's name, my-board, not 'x'; leave it out",
            id="another name for the npu",
        ),
        pytest.param(GOOD + 'os = "windows"\n', "p.toml: os must be linux, not 'windows'", id="os"),
        pytest.param("name = ", "p.toml: a profile must be TOML: ", id="no TOML"),
        pytest.param("", "p.toml: the field name is missing; a profile must have name, description, ", id="empty"),
    ],
)
def test_an_invalid_profile_names_file_and_field(text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(message)) as refused:
        parse_profile(text, where="p.toml")
    assert "\n" not in str(refused.value)


def test_a_binary_file_is_not_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "image.toml"
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ProfileError, match=r"image\.toml: a profile must be TOML in UTF-8"):
        read_profile(path)


def test_the_resident_agent_can_use_profiles_without_numpy() -> None:
    code = "import hardware_profiles.catalog, hardware_profiles.detect, hardware_profiles.match, sys; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert not {"numpy", "onnxruntime"} & set(finished.stdout.split())
