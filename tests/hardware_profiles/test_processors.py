"""The processors that a process may use, on recorded control groups and on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hardware_profiles.processors import usable_processors
from tests.support.tiny_variants import make_variant

CGROUP = "sys/fs/cgroup"


def recorded(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 8, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "max 100000\n"}, 8, id="v2 without a limit"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "200000 100000\n"}, 2, id="v2 in a container"),
        pytest.param({"proc/self/cgroup": "0::/a/b\n", f"{CGROUP}/a/b/cpu.max": "50000 100000\n"}, 1, id="v2 half a processor"),
        pytest.param({"proc/self/cgroup": "0::/a\n", f"{CGROUP}/a/cpu.max": "150000 100000\n"}, 2, id="v2 one and a half"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{CGROUP}/a/cpu.max": "300000 100000\n",
                f"{CGROUP}/a/b/cpu.max": "max 100000\n",
            },
            3,
            id="v2 limit of the parent",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../..\n", f"{CGROUP}/cpu.max": "400000 100000\n"}, 4, id="v2 group outside the namespace"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "2:cpuacct:/\n1:cpu:/job\n0::/\n",
                f"{CGROUP}/cpu/job/cpu.cfs_quota_us": "100000\n",
                f"{CGROUP}/cpu/job/cpu.cfs_period_us": "100000\n",
            },
            1,
            id="v1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n",
                f"{CGROUP}/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                f"{CGROUP}/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3,
            id="v1 in a container, controllers together",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "1:cpu:/\n",
                f"{CGROUP}/cpu/cpu.cfs_quota_us": "-1\n",
                f"{CGROUP}/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
            id="v1 without a limit",
        ),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "6400000 100000\n"}, 8, id="more than the mask"),
        pytest.param({"proc/self/cgroup": "nonsense\n", f"{CGROUP}/cpu.max": "x y z\n"}, 8, id="garbage"),
    ],
)
def test_the_smaller_of_mask_and_quota_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert usable_processors(recorded(tmp_path, files), affinity=8) == expected


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a mask of one processor limits only a machine of several")
def test_a_process_on_one_processor_runs_one_thread_of_each_runtime(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "v")
    script = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from pathlib import Path\n"
        "from accel.backends.onnxruntime_cpu import OnnxRuntime\n"
        "from accel.backends.openvino_cpu import OpenVino\n"
        "from edgewright.contracts.variant import VariantDirectory\n"
        "variant = VariantDirectory.open(Path(sys.argv[1]))\n"
        "sessions = [backend.load(variant, threads=None) for backend in (OnnxRuntime(), OpenVino())]\n"
        "print(*(session.describe()['threads'] for session in sessions))"
    )
    command = [sys.executable, "-c", script, str(variant.path)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd(), timeout=60, env=environment)
    assert done.stdout.split()[:2] == ["1", "1"]
