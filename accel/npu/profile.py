"""What one build of the NPU is: array, memories, clock, pairing. One record, one hash.

The hash stands in the hardware's ID registers and in every program's header, so a program for another machine is refused
before a byte of it is uploaded (docs/spec/npu.md, N60-N62).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from accel.npu import isa
from edgewright.contracts import wire
from edgewright.contracts.names import check_name, nearest
from edgewright.errors import NotFoundError, ProfileError

_NOT_HASHED = ("name", "part", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuProfile:
    """One NPU: `rows` lanes (output channels) times `columns` (input channels of one activation vector)."""

    name: str
    rows: int
    columns: int
    vector_lanes: int
    """How many outputs the vector unit finishes per cycle."""
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
    number_format: str = "int8"
    part: str = ""
    status: str = "simulated"

    def __post_init__(self) -> None:
        check_name(self.name, "NPU profile")
        for name, value in self._powers_of_two().items():
            _require(value > 1 and value & (value - 1) == 0, f"{self.name}: {name} must be a power of two over 1, not {value}")
        _require(self.columns % 4 == 0, f"{self.name}: columns must be a multiple of 4, not {self.columns}")
        _require(
            self.rows % self.columns == 0 and self.rows // self.columns < isa.PARTS_LIMIT,
            f"{self.name}: rows must be 1 to {isa.PARTS_LIMIT - 1} times columns ({self.columns}), not {self.rows}",
        )
        _require(
            self.columns // self.vector_lanes >= 2,
            f"{self.name}: vector_lanes must be at most half of columns ({self.columns}), not {self.vector_lanes}",
        )
        _require(self.clock_mhz > 0, f"{self.name}: clock_mhz must be positive, not {self.clock_mhz}")
        _require(self.number_format == "int8", f"{self.name}: number_format must be int8, not {self.number_format!r}")
        for name, limit in _ADDRESS_LIMITS.items():
            _require(getattr(self, name) <= limit, f"{self.name}: {name} must be at most {limit}, not {getattr(self, name)}")

    def _powers_of_two(self) -> dict[str, int]:
        names = ("rows", "columns", "vector_lanes", *_ADDRESS_LIMITS)
        return {name: getattr(self, name) for name in names}

    @property
    def lane_groups(self) -> int:
        """How many cycles the vector unit spends on one vector of `columns` outputs."""
        return self.columns // self.vector_lanes

    @property
    def macs_per_cycle(self) -> int:
        """Multiplications of the whole array per cycle."""
        return self.rows * self.columns

    @property
    def hash(self) -> bytes:
        """The 32 bytes that tell this machine from every other one."""
        record = {name: value for name, value in asdict(self).items() if name not in _NOT_HASHED}
        return hashlib.sha256(wire.encode({"isa": isa.VERSION, **record})).digest()


_ADDRESS_LIMITS = {
    "instructions": 1 << 16,
    "weight_rows": 1 << 20,
    "activation_vectors": 1 << 16,
    "accumulator_depth": 1 << 12,
    "parameter_groups": 1 << 16,
}


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ProfileError(otherwise)


def _simulated(name: str, *, size: int, paired: bool) -> NpuProfile:
    return NpuProfile(
        name=name,
        rows=size,
        columns=size,
        vector_lanes=size // 2 if size < 8 else size // 4,
        paired=paired,
        instructions=1024,
        weight_rows=4096,
        activation_vectors=4096,
        accumulator_depth=256,
        parameter_groups=512,
        clock_mhz=60.0,
    )


PROFILES: dict[str, NpuProfile] = {
    profile.name: profile
    for profile in (
        _simulated("npu-sim-4", size=4, paired=False),
        _simulated("npu-sim-4-paired", size=4, paired=True),
        _simulated("npu-sim-8", size=8, paired=False),
        _simulated("npu-sim-8-paired", size=8, paired=True),
        NpuProfile(
            name="colorlight-i9",
            rows=16,
            columns=8,
            vector_lanes=2,
            paired=True,
            instructions=2048,
            weight_rows=8192,
            activation_vectors=4096,
            accumulator_depth=512,
            parameter_groups=512,
            clock_mhz=60.0,
            part="LFE5U-45F",
            status="simulated; not yet placed and routed",
        ),
        NpuProfile(
            name="ulx3s-85f",
            rows=16,
            columns=16,
            vector_lanes=4,
            paired=True,
            instructions=2048,
            weight_rows=8192,
            activation_vectors=4096,
            accumulator_depth=512,
            parameter_groups=512,
            clock_mhz=60.0,
            part="LFE5U-85F",
            status="simulated; synthesised by yosys (153 of 156 multipliers, 185 of 208 block RAMs); not placed and routed",
        ),
    )
}


def find_profile(name: str) -> NpuProfile:
    """Return the shipped profile `name`, or raise `NotFoundError` with the nearest names."""
    if name not in PROFILES:
        raise NotFoundError(f"there is no NPU profile {name!r}{nearest(name, PROFILES)}")
    return PROFILES[name]
