"""Recorded /proc files and device trees of real machines, shortened to the lines that detection reads."""

from __future__ import annotations

from pathlib import Path

from hardware_profiles.detect import Machine, read_machine

_ARM_CORE = """processor	: {number}
BogoMIPS	: 108.00
Features	: {features}
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: {part}
CPU revision	: 3

"""

_X86_CORE = """processor	: {number}
vendor_id	: {vendor}
model name	: {model}
cache size	: 512 KB
flags		: {flags}
bogomips	: 4800.00

"""

_A72 = "fp asimd evtstrm crc32 cpuid"
_A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_A78AE = f"{_A76} uscat ilrcpc flagm paca pacg"
_AVX2 = "fpu sse sse2 ssse3 sse4_1 sse4_2 fma avx f16c avx2 bmi2"
_AVX512 = f"{_AVX2} avx512f avx512dq avx512bw avx512vl avx512_vnni"


def _record(root: Path, cpuinfo: str, memory_kb: int, board: str | None) -> None:
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/meminfo").write_text(f"MemTotal:       {memory_kb} kB\nMemFree:          51234 kB\n")
    if board:
        (root / "proc/device-tree/model").write_bytes(board.encode() + b"\0")


def raspberry_pi_4(root: Path) -> Machine:
    cores = "".join(_ARM_CORE.format(number=number, features=_A72, part="0xd08") for number in range(4))
    board = "Raspberry Pi 4 Model B Rev 1.4"
    tail = f"Hardware	: BCM2835\nRevision	: c03114\nModel		: {board}\n"
    _record(root, cores + tail, 3884344, board)
    return read_machine(root, architecture="aarch64")


def raspberry_pi_5(root: Path) -> Machine:
    cores = "".join(_ARM_CORE.format(number=number, features=_A76, part="0xd0b") for number in range(4))
    _record(root, cores, 8245760, "Raspberry Pi 5 Model B Rev 1.0")
    return read_machine(root, architecture="aarch64")


def jetson_orin_nano(root: Path) -> Machine:
    cores = "".join(_ARM_CORE.format(number=number, features=_A78AE, part="0xd42") for number in range(6))
    _record(root, cores, 7802892, "NVIDIA Jetson Orin Nano Developer Kit")
    return read_machine(root, architecture="aarch64")


def x86_with_avx512_vnni(root: Path) -> Machine:
    model = "AMD EPYC 9354 32-Core Processor"
    cores = "".join(_X86_CORE.format(number=number, vendor="AuthenticAMD", model=model, flags=_AVX512) for number in range(8))
    _record(root, cores, 16384000, None)
    return read_machine(root, architecture="x86_64")


def x86_with_avx_vnni(root: Path) -> Machine:
    model = "Intel(R) N100"
    cores = "".join(
        _X86_CORE.format(number=number, vendor="GenuineIntel", model=model, flags=f"{_AVX2} avx_vnni") for number in range(4)
    )
    _record(root, cores, 8000000, None)
    return read_machine(root, architecture="x86_64")


def x86_without_vnni(root: Path) -> Machine:
    model = "Intel(R) Core(TM) i5-7200U CPU @ 2.50GHz"
    cores = "".join(_X86_CORE.format(number=number, vendor="GenuineIntel", model=model, flags=_AVX2) for number in range(4))
    _record(root, cores, 8000000, None)
    return read_machine(root, architecture="x86_64")


def unknown_arm_board(root: Path) -> Machine:
    cores = "".join(_ARM_CORE.format(number=number, features=_A72, part="0xfff") for number in range(2))
    _record(root, cores, 1000000, "Some Vendor Board")
    return read_machine(root, architecture="aarch64")
