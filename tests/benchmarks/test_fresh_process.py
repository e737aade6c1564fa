"""The process of a measurement: results, limits, failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measuring.fresh_process import Outcome, ask

SCRIPT = """
import time
from benchmarks.measuring.fresh_process import memory_mib, worker_main

def work(request):
    print("noise that is no answer")
    if request["do"] == "fail":
        raise ValueError("this cannot be measured")
    if request["do"] == "wait":
        time.sleep(60)
    block = bytearray(request.get("mib", 0) << 20)
    return {"sum": sum(request["numbers"]), "peak_mib": memory_mib("VmHWM"), "size": len(block)}

worker_main(work)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "worker.py"
    path.write_text(SCRIPT, "utf-8")
    return str(path)


def test_prints_of_a_worker_do_not_disturb_its_result(script: str) -> None:
    assert ask(script, {"do": "sum", "numbers": [1, 2, 3]}, time_limit_s=60).values["sum"] == 6


def test_the_peak_is_the_workers_own(script: str) -> None:
    small = ask(script, {"do": "sum", "numbers": []}, time_limit_s=60).values["peak_mib"]
    large = ask(script, {"do": "sum", "numbers": [], "mib": 100}, time_limit_s=60).values["peak_mib"]
    assert 95 < large - small < 105


def test_a_failure_is_described_by_the_last_line(script: str) -> None:
    assert ask(script, {"do": "fail"}, time_limit_s=60) == Outcome(failure="ValueError: this cannot be measured")


def test_a_worker_ends_at_the_time_limit(script: str) -> None:
    assert ask(script, {"do": "wait"}, time_limit_s=1).failure == "not done after 1 s"


def test_a_worker_ends_at_the_memory_limit(script: str) -> None:
    found = ask(script, {"do": "sum", "numbers": [], "mib": 2000}, time_limit_s=60, memory_limit_mib=500)
    assert found.failure == "stopped at the cap of 500 MiB"
