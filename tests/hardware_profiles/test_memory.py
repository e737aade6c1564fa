"""The memory that a process may use, on recorded control groups and on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hardware_profiles.memory import free_memory_bytes, prefer_for_oom_killer, resident_bytes

CGROUP = "sys/fs/cgroup"
GIB = 1 << 30
NO_LIMIT_V1 = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 8 * GIB, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/memory.max": "max\n"}, 8 * GIB, id="v2 without a limit"),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", f"{CGROUP}/memory.max": f"{GIB}\n", f"{CGROUP}/memory.current": "1000\n"},
            GIB - 1000,
            id="v2 in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{CGROUP}/a/memory.max": f"{2 * GIB}\n",
                f"{CGROUP}/a/memory.current": f"{GIB}\n",
                f"{CGROUP}/a/b/memory.max": "max\n",
                f"{CGROUP}/a/b/memory.current": "5\n",
            },
            GIB,
            id="v2 limit of the parent",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", f"{CGROUP}/memory.max": "5\n", f"{CGROUP}/memory.current": "9\n"}, 0, id="v2 exceeded"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "3:memory:/job\n0::/\n",
                f"{CGROUP}/memory/job/memory.limit_in_bytes": f"{GIB}\n",
                f"{CGROUP}/memory/job/memory.usage_in_bytes": "1\n",
                f"{CGROUP}/memory/memory.limit_in_bytes": NO_LIMIT_V1,
                f"{CGROUP}/memory/memory.usage_in_bytes": "2\n",
            },
            GIB - 1,
            id="v1",
        ),
    ],
)
def test_the_smallest_limit_counts(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory_bytes(tmp_path, available_bytes=8 * GIB) == expected


def test_this_machine_has_free_memory() -> None:
    assert 0 < free_memory_bytes() <= psutil.virtual_memory().total


def test_a_process_is_preferred_and_measured() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the interpreter is loaded
        prefer_for_oom_killer(process.pid)
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
        assert resident_bytes(process.pid) > 1 << 20
    assert resident_bytes(process.pid) == 0
