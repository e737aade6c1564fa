"""Count the processors that this process may use: the affinity mask and the limits of its control groups.

A container with `--cpus 2` on a machine of 64 processors sees all 64 in /proc/cpuinfo. A runtime that starts 64 threads there
spends most of its quota on switching between them.

    affinity     sched_getaffinity, which also reflects cpusets (`--cpuset-cpus`, taskset)
    cgroup v2    cpu.max of the process's group and of every group above it
    cgroup v1    cpu.cfs_quota_us and cpu.cfs_period_us, likewise
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from hardware_profiles.control_groups import control_groups, text_of


def usable_processors(root: Path = Path("/"), *, affinity: int | None = None) -> int:
    """Return the number of processors that this process may use, at least 1; a share of one counts as a whole one.

    `root` and `affinity`, the number of processors in the affinity mask, are for recorded machines.
    """
    allowed = _in_affinity_mask() if affinity is None else affinity
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def default_threads() -> int | None:
    """Return the number of threads for a runtime that is not told one; None if it may use the whole machine.

    With the whole machine the runtime's own choice is better: it knows which processors share a core.
    """
    usable = usable_processors()
    return usable if usable < (os.cpu_count() or 1) else None


def _in_affinity_mask() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield every limit on the process's groups, in processors."""
    for version, folder in control_groups(root, "cpu"):
        quota = _v2_quota(folder) if version == 2 else _v1_quota(folder)
        if quota is not None:
            yield quota


def _v2_quota(folder: Path) -> float | None:
    limit, _, period = text_of(folder / "cpu.max").partition(" ")
    return _ratio(limit, period)


def _v1_quota(folder: Path) -> float | None:
    return _ratio(text_of(folder / "cpu.cfs_quota_us"), text_of(folder / "cpu.cfs_period_us"))


def _ratio(limit: str, period: str) -> float | None:
    """Return the processors of a limit per period; None without a limit ("max" in version 2, -1 in version 1)."""
    if not limit.isdecimal() or not period.isdecimal() or int(limit) == 0 or int(period) == 0:
        return None
    return int(limit) / int(period)
