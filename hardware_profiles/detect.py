"""Identify this machine and choose the shipped profile that describes it best.

    read_machine     /proc and /sys (or a recorded copy below another root) -> Machine
    detect           Machine -> the best profile, and one sentence per profile

A profile that names the board wins; otherwise the profile with the most instruction set extensions, all of which the machine
must have. Profiles of boards on a serial line are never detected here, because /proc does not show such boards.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.hardware_profile import Architecture, HardwareProfile

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The properties of one machine, as its operating system reports them."""

    architecture: str
    """Go's name where there is one (`amd64`, `arm64`), else the operating system's."""
    cpu_model: str
    cpu_cores: int
    memory_mib: int
    isa_extensions: frozenset[str]
    board: str | None = None
    """The model in the device tree; None without a device tree."""

    @property
    def fingerprint(self) -> tuple[str, str, int, tuple[str, ...]]:
        """The properties that measured times depend on: architecture, CPU model, CPU cores and sorted ISA extensions."""
        return self.architecture, self.cpu_model, self.cpu_cores, tuple(sorted(self.isa_extensions))


@dataclass(frozen=True, slots=True)
class Detection:
    """The profile that describes a machine best (None if no profile does), and one sentence per profile considered."""

    machine: Machine
    profile: HardwareProfile | None
    sentences: tuple[str, ...]


def read_machine(root: Path = Path("/"), *, architecture: str | None = None) -> Machine:
    """Read the machine's properties from proc and sys below `root`; `architecture` None means the running system's."""
    cpuinfo = _read(root / "proc/cpuinfo")
    machine_type = architecture or platform.machine()
    return Machine(
        architecture=_ARCHITECTURES.get(machine_type.lower(), machine_type.lower()),
        cpu_model=_cpu_model(cpuinfo) or machine_type,
        cpu_cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or os.cpu_count() or 1,
        memory_mib=_memory_mib(_read(root / "proc/meminfo")),
        isa_extensions=_isa_extensions(cpuinfo),
        board=_board(root),
    )


def detect(machine: Machine, profiles: Sequence[HardwareProfile]) -> Detection:
    """Choose the profile that describes `machine` best, and give a reason for each profile."""
    candidates = [profile for profile in profiles if profile.architecture is not Architecture.ANY]
    reasons = {profile.name: mismatch(profile, machine) for profile in candidates}
    fitting = [profile for profile in candidates if reasons[profile.name] is None]
    best = max(fitting, key=_specificity, default=None)
    return Detection(machine, best, tuple(_sentence(profile, reasons[profile.name], best) for profile in candidates))


def mismatch(profile: HardwareProfile, machine: Machine) -> str | None:
    """Return the reason why `profile` does not describe `machine`, or None if it does."""
    if profile.architecture != machine.architecture:
        return f"it is for {profile.architecture}, but this machine is {machine.architecture}"
    if profile.boards and not (machine.board or "").startswith(profile.boards):
        return f"it is for {profile.boards[0]}, but this is {machine.board or 'a machine without a board name'}"
    missing = [name for name in profile.isa_extensions if not _has(machine, name)]
    if missing:
        return f"it requires {missing[0]}, which this processor does not have"
    if machine.cpu_cores < profile.cpu_cores:
        return f"it requires {profile.cpu_cores} cores, but this machine has {machine.cpu_cores}"
    if machine.memory_mib < profile.memory_mib * 0.8:  # firmware and a shared GPU reserve part of the memory
        return f"it requires {profile.memory_mib} MiB of memory, but this machine has {machine.memory_mib}"
    return None


def _has(machine: Machine, extension: str) -> bool:
    """Return whether the machine has one of the alternatives in `a | b`: processors use different names for one extension."""
    return any(name.strip() in machine.isa_extensions for name in extension.split("|"))


def _specificity(profile: HardwareProfile) -> tuple[bool, int, str]:
    return bool(profile.boards), len(profile.isa_extensions), profile.name


def _sentence(profile: HardwareProfile, reason: str | None, best: HardwareProfile | None) -> str:
    if reason is not None:
        return f"{profile.name} does not describe this machine: {reason}."
    if best is None or profile.name == best.name:
        return f"{profile.name} describes this machine best."
    return f"{profile.name} describes this machine too, but {best.name} is more specific."


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not every system has every file
        return ""


def _cpu_model(cpuinfo: str) -> str | None:
    """Return the processor's name; ARM kernels report part numbers instead of names."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if name:
        return name.group(1).strip()
    part = re.search(r"^CPU part\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)
    return _ARM_PARTS.get(part.group(1).lower(), f"ARM part {part.group(1)}") if part else None


# Part numbers of implementer 0x41 (Arm Ltd.), from each core's technical reference manual, register MIDR_EL1.
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
}


def _isa_extensions(cpuinfo: str) -> frozenset[str]:
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return frozenset(flags.group(1).split()) if flags else frozenset()


def _memory_mib(meminfo: str) -> int:
    total = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(total.group(1)) // 1024 if total else 0


def _board(root: Path) -> str | None:
    for place in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        name = _read(root / place).rstrip("\0\n").strip()
        if name:
            return name
    return None
