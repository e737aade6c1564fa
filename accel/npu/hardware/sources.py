"""The files of the RTL, its parameters for a profile, and the cache directory of builds.

Verilator (verilate.py) and the FPGA tools (bitstream.py) use the same files and parameters.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from accel.npu.profile import NpuProfile

RTL = Path(__file__).parents[1] / "rtl"
POWER_UP_US = 210
"""Wait before the first command to the SDRAM, which requires 200 us."""


def rtl_parameters(profile: NpuProfile) -> dict[str, int | str]:
    """Return the parameters of the RTL's top module for a profile."""
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
    """Return the directory that caches builds of the RTL."""
    root = os.environ.get("EDGEWRIGHT_CACHE")
    home = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgewright"
    return home / "npu"
