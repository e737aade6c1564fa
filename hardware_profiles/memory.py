"""Memory that this process may still use, and memory that other processes use.

available    MemAvailable in /proc/meminfo (proc_meminfo(5))
cgroup v2    memory.max less memory.current, of the process's group and of every group above it
cgroup v1    memory.limit_in_bytes less memory.usage_in_bytes, likewise
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from hardware_profiles.control_groups import control_groups, text_of

_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
_HIGHEST_OOM_SCORE = "1000"


def free_memory_bytes(root: Path = Path("/"), *, available_bytes: int | None = None) -> int:
    """Return the bytes that this process may still use, at least 0.

    `root` and `available_bytes`, the available memory of the machine, are for recorded machines.
    """
    available = psutil.virtual_memory().available if available_bytes is None else available_bytes
    return max(0, min([available, *_left_in_groups(root)]))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, in bytes; 0 if it ended."""
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants; nothing if it ended."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def prefer_for_oom_killer(pid: int | None = None) -> None:
    """Make a process, this one without `pid`, the kernel's first choice when memory runs out (oom_score_adj in proc(5))."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid or 'self'}/oom_score_adj").write_text(_HIGHEST_OOM_SCORE, "ascii")


def _left_in_groups(root: Path) -> Iterator[int]:
    for version, folder in control_groups(root, "memory"):
        limit, used = (text_of(folder / name) for name in _FILES[version])
        if limit.isdecimal() and used.isdecimal():
            yield int(limit) - int(used)
