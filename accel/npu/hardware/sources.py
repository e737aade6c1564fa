"""The RTL's files, the parameters that make them one profile's machine, and where what is built from them is kept.

Verilator (verilate.py) and the tools for FPGAs (bitstream.py) start from the same ones.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from accel.npu.profile import NpuProfile

RTL = Path(__file__).parents[1] / "rtl"
POWER_UP_US = 210
"""An SDRAM wants 200 us before its first command."""


def rtl_parameters(profile: NpuProfile) -> dict[str, int | str]:
    """Return the parameters of the RTL's top module that make it this profile's machine."""
    return {
        "ROWS": profile.rows,
        "COLUMNS": profile.columns,
        "VECTOR_LANES": profile.vector_lanes,
        "PAIRED": int(profile.paired),
        "MICROSCALING": int(profile.number_format == "mxint8"),
        "INSTRUCTIONS": profile.instructions,
        "WEIGHT_ROWS": profile.weight_rows,
        "ACTIVATION_VECTORS": profile.activation_vectors,
        "ACCUMULATOR_DEPTH": profile.accumulator_depth,
        "PARAMETER_GROUPS": profile.parameter_groups,
        "EXTERNAL": int(profile.external_memory_mib > 0),
        "POWER_UP_CYCLES": math.ceil(POWER_UP_US * profile.clock_mhz),
        "REFRESH_CYCLES": profile.refresh_cycles,
        "PROFILE_HASH": f"64'h{profile.hash[:8][::-1].hex()}",
    }


def cache_directory() -> Path:
    """Return where what is built from the RTL is kept."""
    root = os.environ.get("EDGEWRIGHT_CACHE")
    home = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgewright"
    return home / "npu"
