"""Find an NPU profile: the `[npu]` table of a hardware profile, by the profile's name or file.

`hardware_profiles.npu_profile` defines the record, its checks and its hash.
"""

from __future__ import annotations

from dataclasses import replace

from edgewright.contracts.names import nearest
from edgewright.errors import NotFoundError
from hardware_profiles.catalog import SUFFIX, load_profile, shipped_profiles
from hardware_profiles.npu_profile import NpuProfile

__all__ = ["NpuProfile", "find_profile", "npu_profiles", "with_host"]


def with_host(profile: NpuProfile, mmac_per_s: float | None) -> NpuProfile:
    """Return the same NPU with a host of another speed, in millions of multiplications per second; None changes nothing."""
    return profile if mmac_per_s is None else replace(profile, host_mmac_per_s=mmac_per_s)


def npu_profiles() -> tuple[NpuProfile, ...]:
    """Return the shipped NPUs, sorted by name."""
    return tuple(profile.npu for profile in shipped_profiles() if profile.npu is not None)


def find_profile(name: str) -> NpuProfile:
    """Return a shipped NPU by name, or the one in a profile of your own by the path of its TOML file.

    Raises:
        NotFoundError: no NPU has that name (the message lists the nearest ones), or the file is missing or has no `[npu]` table.
        ProfileError: the file is not a valid profile.
    """
    if "/" in name or name.endswith(SUFFIX):
        record = load_profile(name).npu
        if record is None:
            raise NotFoundError(f"{name}: the profile must have an [npu] table, but it describes a machine without an NPU")
        return record
    profiles = {profile.name: profile for profile in npu_profiles()}
    if name not in profiles:
        raise NotFoundError(f"there is no NPU profile {name!r}{nearest(name, profiles)}")
    return profiles[name]
