"""The program file: it decodes to the same program, and damaged or incompatible files are refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hardware_profiles
from accel.npu import isa
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.profile import NpuProfile, find_profile, npu_profiles
from accel.npu.program import LayerRecord, NpuProgram, read_program
from accel.npu.tensors import ColumnFold, TensorPlace
from edgewright.errors import NotFoundError, PackageError, ProfileError
from tests.support.random_programs import make_program

PROFILE = find_profile("npu-sim-4")


@pytest.fixture
def program() -> NpuProgram:
    plain = make_program(
        PROFILE, [isa.LoadW(address=0, rows=2)], np.ones((2, 4), np.int8), np.ones((1, PROFILE.vector_lanes, 3), np.int32)
    )
    place = TensorPlace(
        name="image",
        channels=3,
        height=4,
        width=4,
        scale=0.5,
        zero_point=-3,
        base=0,
        fold=ColumnFold(kernel=3, step=1, dilation=1, left=1, width=4),
    )
    layer = LayerRecord(name="conv", operator="Conv", first=0, last=1, macs=7)
    return replace(plain, description=replace(plain.description, inputs=(place,), layers=(layer,)))


def test_n50_n51_reading_a_program_file_gives_the_same_program(program: NpuProgram) -> None:
    decoded = read_program(program.to_bytes())
    assert decoded.description == program.description
    assert decoded.profile_hash == program.profile_hash
    np.testing.assert_array_equal(decoded.instructions, program.instructions)
    np.testing.assert_array_equal(decoded.weights, program.weights)
    np.testing.assert_array_equal(decoded.parameters, program.parameters)


def test_n52_the_same_program_has_the_same_bytes(program: NpuProgram) -> None:
    assert read_program(program.to_bytes()).to_bytes() == program.to_bytes()


@pytest.mark.parametrize("length", [0, 3, 47, 48, 200])
def test_n53_a_truncated_file_is_refused_at_every_length(program: NpuProgram, length: int) -> None:
    with pytest.raises(PackageError, match=r"must start with 48 bytes|it is truncated or damaged, fetch it again"):
        read_program(program.to_bytes()[:length])


def test_n53_a_changed_byte_is_refused(program: NpuProgram) -> None:
    raw = bytearray(program.to_bytes())
    raw[len(raw) // 2] ^= 1
    with pytest.raises(PackageError, match=r"^p.bin does not match its checksum: it is damaged, fetch it again$"):
        read_program(bytes(raw), "p.bin")


def test_n53_a_newer_version_is_refused(program: NpuProgram) -> None:
    raw = bytearray(program.to_bytes())
    struct.pack_into("<H", raw, 4, 4)
    with pytest.raises(PackageError, match=r"^p.bin has format version 4, newer than 3: update edgewright on this machine$"):
        read_program(bytes(raw), "p.bin")


def test_n54_a_program_for_another_npu_is_refused_before_it_is_loaded(program: NpuProgram) -> None:
    with pytest.raises(
        ProfileError, match=r"^the program was compiled for NPU npu-sim-4 .* compile the model again for npu-sim-8$"
    ):
        FunctionalModel(find_profile("npu-sim-8")).load(program)


def test_n60_every_profile_has_its_own_hash_and_a_new_name_does_not_change_it() -> None:
    assert len({profile.hash for profile in npu_profiles()}) == len(npu_profiles())
    assert replace(PROFILE, name="mine", part="x", status="y").hash == PROFILE.hash
    assert replace(PROFILE, clock_mhz=61.0).hash != PROFILE.hash


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("columns", 6, "columns must be a power of two over 1, not 6"),
        ("columns", 8, r"rows must be 1 to 15 times columns \(8\), not 4"),
        ("vector_lanes", 4, r"vector_lanes must be at most half of columns \(4\), not 4"),
        ("clock_mhz", -1.0, "clock_mhz must be positive, not -1.0"),
        ("number_format", "fp8", "number_format must be int8 or mxint8, not 'fp8'"),
        ("external_memory_mib", 32, "external_memory_mib and .* must both be positive or both 0, not 32 and 0"),
        ("isa_version", 99, "isa_version must be 2, the version that this edgewright supports, not 99"),
        ("activation_vectors", 1 << 17, "activation_vectors must be at most 65536, not 131072"),
    ],
)
def test_n61_a_profile_that_cannot_be_built_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ProfileError, match=f"^npu-sim-4: {message}$"):
        changed(field, value)


def test_n61_an_array_with_more_rows_than_loadw_can_count_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"^npu-sim-4: rows must be at most 128, not 256$"):
        replace(PROFILE, rows=256, columns=64)


def test_an_npu_of_your_own_is_found_by_the_path_of_its_profile(tmp_path: Path) -> None:
    shipped = Path(hardware_profiles.__file__).parent / "profiles"
    mine = tmp_path / "mine.toml"
    mine.write_text((shipped / "npu-sim-4.toml").read_text().replace("npu-sim-4", "mine"))
    assert find_profile(str(mine)).hash == PROFILE.hash
    with pytest.raises(NotFoundError, match=r"raspberry-pi-5\.toml: the profile must have an \[npu\] table, but it describes"):
        find_profile(str(shipped / "raspberry-pi-5.toml"))


def changed(field: str, value: object) -> NpuProfile:
    return replace(PROFILE, **{field: value})  # type: ignore[arg-type]


def test_an_unknown_profile_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(NotFoundError, match=r"^there is no NPU profile 'ulx3s'; known: ulx3s-85f$"):
        find_profile("ulx3s")
