"""Every row is in the output once, whichever process is killed at whatever time."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from edgewright.batch.driver import STATE_FOLDER, read_report
from tests.support.batch_inputs import rows

ROWS_PER_TABLE = 7
SCRIPT = """
import time

def init():
    pass

def run(mini_batch):
    time.sleep(0.01)
    return mini_batch.id.tolist()
"""


def new_job(folder: Path, tables: int) -> list[str]:
    """Return the command of a job with one task per table."""
    (folder / "in").mkdir()
    for number in range(tables):
        pq.write_table(rows(ROWS_PER_TABLE, number * ROWS_PER_TABLE), folder / "in" / f"{number:04d}.parquet")
    (folder / "score.py").write_text(SCRIPT)
    return [
        *(sys.executable, "-m", "edgewright", "batch", "run", "--script", str(folder / "score.py")),
        *("--input", str(folder / "in"), "--output", str(folder / "out"), "--run-max-try", "100", "--workers", "2"),
    ]


def start(job: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(job, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def stored(folder: Path) -> int:
    """Return the number of parts that are stored and not assembled."""
    return sum(1 for _ in (folder / "out" / STATE_FOLDER / "parts").glob("*.arrow"))


def kill_drivers(job: list[str], folder: Path, times: int, chance: random.Random) -> int:
    """Kill the driver at random moments, each after further parts were stored; return how often it was still running."""
    killed = 0
    for _ in range(times):
        process = start(job)
        after = stored(folder) + chance.randint(0, 3)
        while process.poll() is None and stored(folder) < after:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    return killed


def kill_workers(process: subprocess.Popen[bytes], folder: Path, times: int, chance: random.Random) -> int:
    """Kill a random worker at random moments; return the number that was killed."""
    killed = 0
    while killed < times and process.poll() is None:
        after = stored(folder) + 1
        while process.poll() is None and stored(folder) < after:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            chance.choice(psutil.Process(process.pid).children()).send_signal(signal.SIGKILL)
            killed += 1
    return killed


def run_with_kills(folder: Path, *, tables: int, times: int) -> None:
    chance = random.Random(13)
    job = new_job(folder, tables)
    assert kill_drivers(job, folder, times, chance) == times
    process = start(job)
    assert kill_workers(process, folder, times, chance) == times
    _, error = process.communicate()
    assert process.returncode == 0, error
    found = pq.read_table(folder / "out" / "predictions.parquet").column("result").to_pylist()
    assert found == list(range(tables * ROWS_PER_TABLE))
    report = read_report(folder / "out")
    assert (report.runs, report.succeeded, report.failed) == (times + 1, tables * ROWS_PER_TABLE, 0)


def test_rows_are_scored_once_although_drivers_and_workers_are_killed(tmp_path: Path) -> None:
    run_with_kills(tmp_path, tables=40, times=3)


@pytest.mark.slow
def test_rows_are_scored_once_although_20_drivers_and_20_workers_are_killed(tmp_path: Path) -> None:
    run_with_kills(tmp_path, tables=400, times=20)


def test_ctrl_c_ends_the_workers_and_the_same_command_continues(tmp_path: Path) -> None:
    job = new_job(tmp_path, 20)
    process = start(job)
    while stored(tmp_path) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert (process.returncode, error) == (130, b"edgewright: interrupted\n")
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert subprocess.run(job, check=True, capture_output=True).stderr == b""
    found = pq.read_table(tmp_path / "out" / "predictions.parquet").column("result").to_pylist()
    assert found == list(range(20 * ROWS_PER_TABLE))
