"""Limit the processor time and memory of a process tree, and measure its memory.

    control groups    a quota of processor time and a limit of memory, as Kubernetes and Docker set them; version 1 and 2
    affinity          whole processors only, memory is measured but not limited: where control groups cannot be written

Source of the files: Linux kernel documentation, admin-guide/cgroup-v1 (cpu: sched-bwc; memory) and admin-guide/cgroup-v2.
"""

from __future__ import annotations

import contextlib
import enum
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from hardware_profiles.control_groups import control_groups
from hardware_profiles.memory import process_tree

PERIOD_US = 100_000
"""Period of a quota, as Kubernetes and Docker have it by default."""
CGROUPS = Path("/sys/fs/cgroup")


class Method(enum.StrEnum):
    """The means by which a size is enforced."""

    CONTROL_GROUPS = "control groups"
    AFFINITY = "affinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Processor time and memory of a service."""

    cpu: float
    """Processors, as in Kubernetes: 0.5 is half the time of one."""
    memory_bytes: int | None = None
    """None: not limited."""


class Limits:
    """The limits of one process tree."""

    def __init__(self, size: Size, groups: tuple[Path, ...], memory_stat: Path | None) -> None:
        self._size = size
        self._groups = groups
        self._memory_stat = memory_stat

    def apply(self, pid: int) -> None:
        """Put a process, and those that it starts from now on, under the limits; processor time is not limited yet."""
        for group in self._groups:
            (group / "cgroup.procs").write_text(str(pid))
        if not self._groups:
            os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[-max(1, round(self._size.cpu)) :])

    def restrict(self) -> None:
        """Begin to limit the processor time: a service starts without that limit, because its start is not measured."""
        quota_us = max(1000, round(self._size.cpu * PERIOD_US))
        for group in self._groups:
            for name, text in (("cpu.max", f"{quota_us} {PERIOD_US}"), ("cpu.cfs_quota_us", str(quota_us))):
                if (group / name).exists():
                    (group / name).write_text(text)

    def memory_bytes(self, pid: int) -> int:
        """Return the memory of the tree that cannot be reclaimed: anonymous pages of the group, or proportional set sizes."""
        if self._memory_stat is not None:
            with contextlib.suppress(OSError):
                return _anonymous(self._memory_stat.read_text())
        return sum(_pss(process) for process in process_tree(pid))


@contextlib.contextmanager
def limited(size: Size, method: Method, root: Path = CGROUPS) -> Iterator[Limits]:
    """Yield limits; control groups are removed when their processes have ended."""
    if method is Method.AFFINITY:
        yield Limits(size, (), None)
        return
    name = f"edgewright-profile-{uuid.uuid4().hex[:12]}"
    groups = _v2_groups(root, name) if _is_v2(root) else _v1_groups(root, name)
    try:
        for group in groups:
            group.mkdir()
        _limit_memory(size, groups[-1], is_v2=_is_v2(root))
        yield Limits(size, groups, groups[-1] / "memory.stat")
    finally:
        for group in groups:
            _remove(group)


def method_of_this_machine(root: Path = CGROUPS) -> Method:
    """Return the method that works here: control groups if a limited group can be made."""
    try:
        with limited(Size(cpu=1.0, memory_bytes=1 << 30), Method.CONTROL_GROUPS, root) as limits:
            limits.restrict()
            return Method.CONTROL_GROUPS
    except OSError:
        return Method.AFFINITY


def _is_v2(root: Path) -> bool:
    return (root / "cgroup.controllers").exists()


def _v1_groups(root: Path, name: str) -> tuple[Path, ...]:
    return tuple(_v1_group(root, controller) / name for controller in ("cpu", "memory"))


def _v1_group(root: Path, controller: str) -> Path:
    """Return this process's group of a controller, or the root of the controller if none is mounted for it."""
    own = (folder for version, folder in control_groups(Path("/"), controller) if version == 1 and folder.is_relative_to(root))
    return next((folder for folder in own if folder.is_dir()), root / controller)


def _v2_groups(root: Path, name: str) -> tuple[Path, ...]:
    return (root / name,)


def _limit_memory(size: Size, group: Path, *, is_v2: bool) -> None:
    if size.memory_bytes is not None:
        (group / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(size.memory_bytes))


def _anonymous(memory_stat: str) -> int:
    values = dict(line.split(" ", 1) for line in memory_stat.splitlines())
    return int(values.get("total_rss", values.get("anon", 0)))


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _remove(group: Path) -> None:
    """Remove a group whose processes have ended."""
    with contextlib.suppress(OSError):
        group.rmdir()
