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

_V1_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


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
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "/")
        if controllers == "":
            for mount in (root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"):
                yield from (quota for folder in _up(mount, group) if (quota := _v2_quota(folder)) is not None)
        elif "cpu" in controllers.split(","):
            for name in _V1_MOUNTS:
                mount = root / "sys/fs/cgroup" / name
                yield from (quota for folder in _up(mount, group) if (quota := _v1_quota(folder)) is not None)


def _up(mount: Path, group: str) -> Iterator[Path]:
    """Yield the folders of a group and of the groups above it; a container may see its own group as the root of the mount."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _v2_quota(folder: Path) -> float | None:
    limit, _, period = _text(folder / "cpu.max").strip().partition(" ")
    return _ratio(limit, period)


def _v1_quota(folder: Path) -> float | None:
    return _ratio(_text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip())


def _ratio(limit: str, period: str) -> float | None:
    """Return the processors of a limit per period; None without a limit ("max" in version 2, -1 in version 1)."""
    if not limit.isdecimal() or not period.isdecimal() or int(limit) == 0 or int(period) == 0:
        return None
    return int(limit) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
