"""The control groups of this process (Linux cgroups, cgroups(7)), whose limits are smaller than the machine in a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_V1_MOUNTS = {"cpu": ("cpu", "cpu,cpuacct", "cpuacct,cpu"), "memory": ("memory",)}


def control_groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version (1 or 2) and the folder of every group that limits this process, from the innermost to the outermost.

    `controller` is `cpu` or `memory`; `root` is `/`, or the folder of a recorded machine.
    """
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "/")
        if controllers == "":
            for mount in (root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"):
                yield from ((2, folder) for folder in _up(mount, group))
        elif controller in controllers.split(","):
            for name in _V1_MOUNTS[controller]:
                yield from ((1, folder) for folder in _up(root / "sys/fs/cgroup" / name, group))


def _up(mount: Path, group: str) -> Iterator[Path]:
    """Yield the folders of a group and of the groups above it; a container may see its own group as the root of the mount."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def text_of(path: Path) -> str:
    """Return the text of a file without the whitespace around it; an empty text if it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
