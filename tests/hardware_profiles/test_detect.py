"""Detection of the machine and its profile from recorded /proc files and device trees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hardware_profiles.catalog import shipped_profiles
from hardware_profiles.detect import Machine, detect, read_machine
from tests.support import machines


@pytest.mark.parametrize(
    ("record", "profile"),
    [
        pytest.param(machines.raspberry_pi_4, "raspberry-pi-4", id="Pi 4"),
        pytest.param(machines.raspberry_pi_5, "raspberry-pi-5", id="Pi 5"),
        pytest.param(machines.jetson_orin_nano, "jetson-orin-nano", id="Jetson Orin Nano"),
        pytest.param(machines.x86_with_avx512_vnni, "x86-64-vnni", id="AVX-512 VNNI"),
        pytest.param(machines.x86_with_avx_vnni, "x86-64-vnni", id="AVX VNNI"),
        pytest.param(machines.x86_without_vnni, "generic-x86-64", id="no VNNI"),
    ],
)
def test_a_known_machine_gets_its_profile(tmp_path: Path, record: Callable[[Path], Machine], profile: str) -> None:
    detected = detect(record(tmp_path), shipped_profiles()).profile
    assert detected is not None
    assert detected.name == profile


def test_a_board_without_a_profile_gets_no_other_boards_profile(tmp_path: Path) -> None:
    detection = detect(machines.unknown_arm_board(tmp_path), shipped_profiles())
    assert detection.profile is None
    assert (
        "raspberry-pi-4 does not describe this machine: it is for Raspberry Pi 4, but this is Some Vendor Board."
        in detection.sentences
    )


def test_every_profile_that_could_be_detected_gets_a_sentence(tmp_path: Path) -> None:
    detection = detect(machines.x86_without_vnni(tmp_path), shipped_profiles())
    assert detection.sentences == (
        "generic-x86-64 describes this machine best.",
        "jetson-orin-nano does not describe this machine: it is for arm64, but this machine is amd64.",
        "raspberry-pi-4 does not describe this machine: it is for arm64, but this machine is amd64.",
        "raspberry-pi-5 does not describe this machine: it is for arm64, but this machine is amd64.",
        "x86-64-vnni does not describe this machine: it requires avx512_vnni | avx_vnni, which this processor does not have.",
    )


def test_the_properties_of_a_raspberry_pi_are_read(tmp_path: Path) -> None:
    assert machines.raspberry_pi_4(tmp_path) == Machine(
        architecture="arm64",
        cpu_model="Cortex-A72",
        cpu_cores=4,
        memory_mib=3793,
        isa_extensions=frozenset({"fp", "asimd", "evtstrm", "crc32", "cpuid"}),
        board="Raspberry Pi 4 Model B Rev 1.4",
    )


def test_the_model_name_of_the_processor_is_read_where_cpuinfo_has_one(tmp_path: Path) -> None:
    assert machines.x86_without_vnni(tmp_path).cpu_model == "Intel(R) Core(TM) i5-7200U CPU @ 2.50GHz"


def test_a_board_name_that_only_the_firmware_provides_is_read(tmp_path: Path) -> None:
    machines.unknown_arm_board(tmp_path)
    (tmp_path / "proc/device-tree/model").unlink()
    model = tmp_path / "sys/firmware/devicetree/base/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"Raspberry Pi 5 Model B Rev 1.1\0")
    assert read_machine(tmp_path, architecture="aarch64").board == "Raspberry Pi 5 Model B Rev 1.1"


def test_a_system_without_proc_still_gives_a_machine(tmp_path: Path) -> None:
    machine = read_machine(tmp_path, architecture="riscv64")
    assert (machine.architecture, machine.memory_mib, machine.board) == ("riscv64", 0, None)
    assert detect(machine, shipped_profiles()).profile is None


def test_too_little_memory_is_a_mismatch(tmp_path: Path) -> None:
    machines.x86_without_vnni(tmp_path)
    (tmp_path / "proc/meminfo").write_text("MemTotal:        512000 kB\n")
    detection = detect(read_machine(tmp_path, architecture="x86_64"), shipped_profiles())
    assert detection.profile is None
    assert "it requires 1024 MiB of memory, but this machine has 500." in detection.sentences[0]
