"""The NPU profile: the parameters of one NPU build (array, memories, clock, multiplier pairing) and their hash.

The hash is in the ID registers of the hardware, in the header of every program and in the properties of a compiled variant, so
a program for another NPU is refused before any upload (docs/spec/npu.md, N60-N62). The record is the `[npu]` table of a
hardware profile (`profiles/*.toml`) and takes its name from that profile.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from edgewright.contracts import wire
from edgewright.contracts.names import check_name
from edgewright.errors import ProfileError

ISA_VERSION = 2
"""Version of the instruction set; raised whenever the meaning of an instruction changes."""
PARTS_LIMIT = 16
"""Exclusive limit of rows / columns: a vector pass counts its parts in 4 bits."""
ROWS_LIMIT = 128
"""Limit of rows: LOADW and register 1 count them in 8 bits, and the number is a power of two."""
EXTERNAL_LIMIT_MIB = 32
"""Size of the supported SDRAM: 16 bits wide, 4 banks, 8192 rows, 512 columns."""
EXTERNAL_CLOCK_LIMIT_MHZ = 100
"""Speed grade of the SDRAM at CAS latency 2."""
NUMBER_FORMATS = ("int8", "mxint8")
"""Number formats of the weights. In mxint8 (OCP Microscaling) blocks of 32 share a power of two, which the array applies."""

_NOT_HASHED = ("name", "part", "status", "link_baud", "host_mmac_per_s")
_ADDRESS_LIMITS = {
    "instructions": 1 << 16,
    "weight_rows": 1 << 20,
    "activation_vectors": 1 << 16,
    "accumulator_depth": 1 << 12,
    "parameter_groups": 1 << 16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuProfile:
    """One NPU: `rows` lanes (output channels) times `columns` (input channels of one activation vector)."""

    name: str
    rows: int
    columns: int
    vector_lanes: int
    """Outputs that the vector unit finishes per cycle."""
    paired: bool
    """Two multiplications share one 18x18 multiplier."""
    instructions: int
    """Depth of the program memory, in 128-bit words."""
    weight_rows: int
    """Depth of the weight memory, in rows of `columns` bytes."""
    activation_vectors: int
    """Depth of the activation memory, in vectors of `columns` bytes."""
    accumulator_depth: int
    """Entries per lane in each of the two accumulator banks."""
    parameter_groups: int
    """Depth of the parameter memory: entries of `vector_lanes` x (bias, multiplier, shift)."""
    clock_mhz: float
    external_memory_mib: int = 0
    """Size of the memory outside the FPGA that DMA reaches; 0 means that there is no such memory."""
    external_bandwidth_mb_per_s: int = 0
    number_format: str = "int8"
    """Number format of the weights, one of `NUMBER_FORMATS`."""
    isa_version: int = ISA_VERSION
    link_baud: int = 3_000_000
    """Speed of the serial line to the host, in bits per second."""
    host_mmac_per_s: float = 2.5
    """Millions of int8 multiplications per second that the host computes. The default is that of a soft processor without vector
    instructions, so that only layers stay on the host that any host computes before they are transferred."""
    part: str = ""
    """FPGA part; empty for an NPU that exists only in simulation."""
    status: str = "simulated"
    """Verification status of the NPU, as `edgewright npu profiles` shows it."""

    def __post_init__(self) -> None:
        check_name(self.name, "NPU profile")
        for name, value in self._powers_of_two().items():
            self._require(value > 1 and value & (value - 1) == 0, f"{name} must be a power of two over 1, not {value}")
        self._require(self.columns % 4 == 0, f"columns must be a multiple of 4, not {self.columns}")
        self._require(
            self.rows % self.columns == 0 and self.rows // self.columns < PARTS_LIMIT,
            f"rows must be 1 to {PARTS_LIMIT - 1} times columns ({self.columns}), not {self.rows}",
        )
        self._require(
            self.columns // self.vector_lanes >= 2,
            f"vector_lanes must be at most half of columns ({self.columns}), not {self.vector_lanes}",
        )
        for name in ("clock_mhz", "link_baud", "host_mmac_per_s"):
            self._require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        self._require(
            self.number_format in NUMBER_FORMATS,
            f"number_format must be {' or '.join(NUMBER_FORMATS)}, not {self.number_format!r}",
        )
        self._require(
            self.isa_version == ISA_VERSION,
            f"isa_version must be {ISA_VERSION}, the version that this edgewright supports, not {self.isa_version}",
        )
        for name, limit in (("rows", ROWS_LIMIT), *_ADDRESS_LIMITS.items()):
            self._require(getattr(self, name) <= limit, f"{name} must be at most {limit}, not {getattr(self, name)}")
        self._check_external_memory()

    def _powers_of_two(self) -> dict[str, int]:
        names = ("rows", "columns", "vector_lanes", *_ADDRESS_LIMITS)
        return {name: getattr(self, name) for name in names}

    def _check_external_memory(self) -> None:
        size, bandwidth = self.external_memory_mib, self.external_bandwidth_mb_per_s
        self._require(
            min(size, bandwidth) > 0 or size == bandwidth == 0,
            f"external_memory_mib and external_bandwidth_mb_per_s must both be positive or both 0, not {size} and {bandwidth}",
        )
        if not size:
            return
        self._require(self.number_format == "int8", f"external memory requires number_format int8, not {self.number_format}")
        self._require(
            size <= EXTERNAL_LIMIT_MIB,
            f"external_memory_mib must be at most {EXTERNAL_LIMIT_MIB}, the size of its SDRAM, not {size}",
        )
        self._require(
            bandwidth == int(2 * self.clock_mhz),
            f"external_bandwidth_mb_per_s must be {int(2 * self.clock_mhz)}, two bytes per cycle of the clock, not {bandwidth}",
        )
        self._require(
            self.clock_mhz <= EXTERNAL_CLOCK_LIMIT_MHZ,
            f"clock_mhz must be at most {EXTERNAL_CLOCK_LIMIT_MHZ} with external memory, not {self.clock_mhz:g}",
        )
        self._require(
            self.columns >= 8 and self.lane_groups >= 4,
            "external memory requires 8 columns or more, and vector_lanes of at most a quarter of them, "
            f"not {self.columns} and {self.vector_lanes}",
        )

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ProfileError(f"{self.name}: {message}")

    @property
    def shift_rows(self) -> int:
        """Rows of shifts before the weight rows of one load: 0 except in number format mxint8."""
        return self.rows // self.columns if self.number_format == "mxint8" else 0

    @property
    def lane_groups(self) -> int:
        """Cycles that the vector unit spends on one vector of `columns` outputs."""
        return self.columns // self.vector_lanes

    @property
    def refresh_cycles(self) -> int:
        """Cycles between two refreshes of the external memory: 7.5 us, where the SDRAM allows 64 ms / 8192 rows = 7.8 us."""
        return int(7.5 * self.clock_mhz)

    @property
    def external_words(self) -> int:
        """Size of the external memory in 32-bit words."""
        return self.external_memory_mib << 18

    @property
    def macs_per_cycle(self) -> int:
        """Multiplications of the whole array per cycle."""
        return self.rows * self.columns

    @property
    def hash(self) -> bytes:
        """SHA-256 of the fields that describe the hardware: 32 bytes that identify the NPU."""
        record = {name: value for name, value in asdict(self).items() if name not in _NOT_HASHED}
        return hashlib.sha256(wire.encode(record)).digest()
