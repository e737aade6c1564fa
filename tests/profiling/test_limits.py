"""Limits of a process tree, observed from outside with psutil."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edgewright.profiling import limits
from edgewright.profiling.limits import Limits, Method, Size, limited, method_of_this_machine

BUSY = "print(flush=True)\nwhile True: pass"
GREEDY = "print(flush=True); input(); data = bytearray(300_000_000); print('kept', flush=True)"

needs_groups = pytest.mark.skipif(
    method_of_this_machine() is not Method.CONTROL_GROUPS, reason="control groups cannot be written here"
)


def started(code: str, applied: Limits) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    applied.apply(process.pid)
    applied.restrict()
    return process


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@needs_groups
def test_a_quota_gives_a_share_of_a_processor() -> None:
    with limited(Size(cpu=0.2), Method.CONTROL_GROUPS) as applied:
        process = started(BUSY, applied)
        try:
            observed = psutil.Process(process.pid)
            before_s, began_s = observed.cpu_times().user, time.monotonic()
            time.sleep(1.5)
            share = (observed.cpu_times().user - before_s) / (time.monotonic() - began_s)
        finally:
            ended(process)
    assert share < 0.35, "without a quota it would use a whole processor"


@needs_groups
def test_a_process_that_needs_more_memory_than_its_limit_is_ended() -> None:
    with limited(Size(cpu=1, memory_bytes=100_000_000), Method.CONTROL_GROUPS) as applied:
        process = started(GREEDY, applied)
        output, _ = process.communicate(b"\n")
    assert (process.returncode, output) == (-9, b"")


@needs_groups
def test_no_group_is_left_over() -> None:
    before = set(limits.CGROUPS.glob("**/edgewright-profile-*"))
    with limited(Size(cpu=1), Method.CONTROL_GROUPS) as applied:
        ended(started(BUSY, applied))
    assert set(limits.CGROUPS.glob("**/edgewright-profile-*")) <= before


def test_affinity_gives_whole_processors() -> None:
    with limited(Size(cpu=1), Method.AFFINITY) as applied:
        process = started(BUSY, applied)
        try:
            assert len(os.sched_getaffinity(process.pid)) == 1
            assert applied.memory_bytes(process.pid) > 1_000_000
        finally:
            ended(process)


def test_version_2_has_one_group_with_both_limits(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    with limited(Size(cpu=0.5, memory_bytes=200_000_000), Method.CONTROL_GROUPS, tmp_path) as applied:
        (group,) = tmp_path.glob("edgewright-profile-*")
        (group / "cpu.max").write_text("max 100000")  # as the kernel makes it
        applied.restrict()
        assert (group / "cpu.max").read_text() == "50000 100000"
        assert (group / "memory.max").read_text() == "200000000"


def test_without_control_groups_affinity_is_used(tmp_path: Path) -> None:
    assert method_of_this_machine(tmp_path / "missing") is Method.AFFINITY
