"""What one kind of machine can do, as plain data that is true by construction.

A profile is written in TOML (`profiles/*.toml`) and read by `catalog.py`. An object of these types that
exists has been checked: positive sizes, known precisions, and for an FPGA board a complete record of its accelerator.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from edgewright.contracts import wire
from edgewright.contracts.names import check_name
from edgewright.contracts.variant import Precision
from edgewright.errors import ProfileError

NPU_HASH = "npu.profile"
"""The property of a variant's config that names the accelerator that its program was built for (`NpuRecord.hash`)."""


class Architecture(enum.StrEnum):
    """Processor architectures in Go's names, as OCI platforms use them; `any` for boards that hang on any host."""

    AMD64 = "amd64"
    ARM64 = "arm64"
    ANY = "any"


INT8_TYPES = "int8.types"
"""The property of a variant's config that names the integers its kernels multiply (`Int8Types`)."""


class Int8Types(enum.StrEnum):
    """Types of activations and weights: which pair is exact and fast differs from processor to processor.

    The facts are onnxruntime's (its documentation, "Quantize ONNX models", on data type selection).
    """

    U8S8 = "u8s8"
    """Unsigned activations, signed weights: what x86 multiplies; VNNI sums the products in 32 bits."""
    U8S7 = "u8s7"
    """The same with weights of seven bits: without VNNI, x86 sums pairs of products in 16 bits, which eight bits overflow.

    Unsigned weights of eight bits would be exact there too, but slower than float32 (1.4 times on ResNet-8).
    """
    S8S8 = "s8s8"
    """Both signed: what ARM multiplies (sdot); on x86 the same graph is over twice as slow as U8S8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What such a machine should not be asked for, though it might be able to; None means no limit."""

    max_variant_mib: int | None = None
    """The largest graph and weights together."""

    def __post_init__(self) -> None:
        _check_positive(max_variant_mib=self.max_variant_mib)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuRecord:
    """Everything that fixes an NPU: two boards with equal records run the same programs."""

    rows: int
    """Output lanes: channels that are computed at once."""
    columns: int
    """Elements of the activation vector that is broadcast each cycle."""
    clock_mhz: int
    paired_multipliers: bool
    """Whether two multiplications share one 18x18 multiplier."""
    activation_buffer_kib: int
    accumulator_buffer_kib: int
    program_buffer_kib: int
    external_memory_mib: int = 0
    external_bandwidth_mb_per_s: int = 0
    number_format: str = "int8"

    def __post_init__(self) -> None:
        _check_positive(
            rows=self.rows,
            columns=self.columns,
            clock_mhz=self.clock_mhz,
            activation_buffer_kib=self.activation_buffer_kib,
            accumulator_buffer_kib=self.accumulator_buffer_kib,
            program_buffer_kib=self.program_buffer_kib,
        )
        if self.external_memory_mib < 0 or self.external_bandwidth_mb_per_s < 0:
            raise ProfileError("external_memory_mib and external_bandwidth_mb_per_s must be 0 or more")
        if bool(self.external_memory_mib) != bool(self.external_bandwidth_mb_per_s):
            raise ProfileError("external_memory_mib and external_bandwidth_mb_per_s must both be given, or neither")
        if self.number_format != "int8":
            raise ProfileError(f"number_format must be int8, not {self.number_format!r}")

    @property
    def hash(self) -> str:
        """Return the 32 bits, in hexadecimal, that the board's ID register and a program must both carry."""
        return wire.digest_of(wire.encode(self)).removeprefix("sha256:")[:8]


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
    npu: NpuRecord | None = None

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

    @property
    def int8_types(self) -> Int8Types | None:
        """The pair of integer types that its processor multiplies exactly and fast; None for a board without one of its own."""
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
        raise ProfileError(f"{name} must name at least one, best first, but it is empty")
    if len(set(values)) != len(values):
        raise ProfileError(f"{name} must name each once, but it is {', '.join(values)}")
