"""What one kind of machine can do, as plain data that is true by construction.

A profile is written in TOML (`profiles/*.toml`) and read by `catalog.py`. An object of these types that
exists has been checked: positive sizes, known precisions, and for an FPGA board a complete record of its accelerator
(`npu_profile.py`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from edgewright.contracts.names import check_name
from edgewright.contracts.variant import Precision
from edgewright.errors import ProfileError
from hardware_profiles.npu_profile import NpuProfile

NPU_HASH = "npu.profile"
"""The property of a variant's config that names the accelerator of its program: `NpuProfile.hash` in hexadecimal."""

NPU_RECORD = "npu.record"
"""The property that holds that accelerator's whole record as JSON, so that a device needs no catalogue to simulate it."""


class Architecture(enum.StrEnum):
    """Processor architectures in Go's names, as OCI platforms use them; `any` for boards that hang on any host."""

    AMD64 = "amd64"
    ARM64 = "arm64"
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What such a machine should not be asked for, though it might be able to; None means no limit."""

    max_variant_mib: int | None = None
    """The largest graph and weights together."""

    def __post_init__(self) -> None:
        _check_positive(max_variant_mib=self.max_variant_mib)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """One kind of machine."""

    name: str
    description: str
    architecture: Architecture
    cpu_cores: int
    memory_mib: int
    precisions: tuple[Precision, ...]
    """What it can run, best first."""
    backends: tuple[str, ...]
    """What it can run it with, best first."""
    os: str = "linux"
    storage_mib: int | None = None
    """None means not known."""
    isa_extensions: tuple[str, ...] = ()
    """Instruction set extensions that its precisions count on, in Linux's names (/proc/cpuinfo)."""
    boards: tuple[str, ...] = ()
    """What such machines call themselves: the beginning of a device tree's model, or of a serial board's name."""
    limits: Limits = field(default_factory=Limits)
    npu: NpuProfile | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "profile")
        _check_positive(cpu_cores=self.cpu_cores, memory_mib=self.memory_mib, storage_mib=self.storage_mib)
        if not self.description.strip():
            raise ProfileError("description must say in a sentence what this machine is, but it is empty")
        _check_listed("precisions", self.precisions)
        _check_listed("backends", self.backends)
        if self.os != "linux":
            raise ProfileError(f"os must be linux, not {self.os!r}")
        if ("npu" in self.backends) != (self.npu is not None):
            raise ProfileError("a profile with the backend npu must have an [npu] table, and only such a profile")
        if self.architecture is Architecture.ANY and self.npu is None:
            raise ProfileError("architecture must be amd64 or arm64; any is for boards with an [npu] table")
        if self.npu is not None and self.npu.name != self.name:
            raise ProfileError(f"npu.name must be the profile's name, {self.name}, not {self.npu.name!r}; leave it out")


def _check_positive(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and size <= 0:
            raise ProfileError(f"{name} must be positive, not {size}")


def _check_listed(name: str, values: tuple[str, ...]) -> None:
    if not values:
        raise ProfileError(f"{name} must name at least one, best first, but it is empty")
    if len(set(values)) != len(values):
        raise ProfileError(f"{name} must name each once, but it is {', '.join(values)}")
