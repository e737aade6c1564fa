"""The hardware profile: the capabilities of one kind of machine, as checked data.

A profile is written in TOML (`profiles/*.toml`) and read by `catalog.py`. Construction checks it: positive sizes, supported
precisions, and for an FPGA board a complete record of its accelerator (`npu_profile.py`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from edgewright.contracts.names import check_name
from edgewright.contracts.variant import BackendName, Precision
from edgewright.errors import ProfileError
from hardware_profiles.npu_profile import NpuProfile

NPU_HASH = "npu.profile"
"""The property of a variant's config that names the NPU of its program: `NpuProfile.hash` in hexadecimal."""

NPU_RECORD = "npu.record"
"""The property that holds the whole record of that NPU as JSON, so that a device can simulate an NPU that is not shipped."""


class Architecture(enum.StrEnum):
    """Processor architectures in Go's names, as OCI platforms use them; `any` for boards that any host can drive."""

    AMD64 = "amd64"
    ARM64 = "arm64"
    ANY = "any"


INT8_TYPES = "int8.types"
"""The property of a variant's config that names the integer types its kernels multiply (`Int8Types`)."""


class Int8Types(enum.StrEnum):
    """Integer types of activations and weights; each processor has one pair that is both exact and fast.

    Source: the onnxruntime documentation, "Quantize ONNX models", section on data type selection.
    """

    U8S8 = "u8s8"
    """Unsigned activations, signed weights: the pair that x86 multiplies; VNNI sums the products in 32 bits."""
    U8S7 = "u8s7"
    """As U8S8 with 7-bit weights. Without VNNI, x86 sums pairs of products in 16 bits, which 8-bit weights overflow.

    Unsigned 8-bit weights would be exact there too, but slower than float32 (1.4 times on ResNet-8).
    """
    S8S8 = "s8s8"
    """Both signed: the pair that ARM multiplies (sdot); on x86 the same graph is over twice as slow as U8S8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits that the operator sets below what the machine could run; None means no limit."""

    max_variant_mib: int | None = None
    """Largest size of a variant's graph and weights together."""

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
    """Supported precisions, best first."""
    backends: tuple[str, ...]
    """Supported backends, best first."""
    os: str = "linux"
    storage_mib: int | None = None
    """None if not known."""
    isa_extensions: tuple[str, ...] = ()
    """Instruction set extensions that its precisions require, in Linux's names (/proc/cpuinfo)."""
    boards: tuple[str, ...] = ()
    """Board names: prefixes of the model in the device tree, or of the name of a board on a serial line."""
    limits: Limits = field(default_factory=Limits)
    npu: NpuProfile | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "profile")
        _check_positive(cpu_cores=self.cpu_cores, memory_mib=self.memory_mib, storage_mib=self.storage_mib)
        if not self.description.strip():
            raise ProfileError("description must be a sentence about the machine, but it is empty")
        _check_listed("precisions", self.precisions)
        _check_listed("backends", self.backends)
        if self.os != "linux":
            raise ProfileError(f"os must be linux, not {self.os!r}")
        if (BackendName.NPU in self.backends) != (self.npu is not None):
            raise ProfileError("the backend npu and the [npu] table must occur together, but the profile has only one of them")
        if self.architecture is Architecture.ANY and self.npu is None:
            raise ProfileError("architecture must be amd64 or arm64; any is for boards with an [npu] table")
        if self.npu is not None and self.npu.name != self.name:
            raise ProfileError(f"npu.name must be the profile's name, {self.name}, not {self.npu.name!r}; leave it out")

    @property
    def int8_types(self) -> Int8Types | None:
        """The pair of integer types that the processor multiplies exactly and fast; None for a board without a processor."""
        if self.architecture is Architecture.ANY:
            return None
        if self.architecture is Architecture.ARM64:
            return Int8Types.S8S8
        return Int8Types.U8S8 if any("vnni" in extension for extension in self.isa_extensions) else Int8Types.U8S7


def _check_positive(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and size <= 0:
            raise ProfileError(f"{name} must be positive, not {size}")


def _check_listed(name: str, values: tuple[str, ...]) -> None:
    if not values:
        raise ProfileError(f"{name} must have at least one entry, best first, but it is empty")
    if len(set(values)) != len(values):
        raise ProfileError(f"{name} must have each entry once, not {', '.join(values)}")
