"""Benchmarks of candidates, with real worker processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from accel.backends import benchmark
from accel.backends.backend import Session
from accel.backends.benchmark import Candidate, benchmark_candidates
from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import VariantConfig, VariantDirectory
from edgewright.errors import ModelError, OperationError
from tests.support.tiny_variants import make_variant


class Slow:
    """An onnxruntime backend that takes at least 20 ms and writes every run to a file in the variant's directory."""

    name = "slow"
    least_s = 0.020

    def unavailable(self) -> str | None:
        return None

    def runs(self, config: VariantConfig) -> bool:
        return True

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        return SlowSession(OnnxRuntime().load(variant, threads=threads), self.name, self.least_s, variant.path)


class SlowSession:
    def __init__(self, real: Session, name: str, least_s: float, folder: Path) -> None:
        self.close = real.close
        self._real, self._name, self._least_s, self._folder = real, name, least_s, folder

    def run(self, inputs: Tensors) -> Tensors:
        ends_at = time.perf_counter() + self._least_s
        outputs = self._real.run(inputs)
        while time.perf_counter() < ends_at:
            pass
        with (self._folder / "runs").open("a") as notes:
            notes.write(f"{self._name} {os.getpid()}\n")
        return outputs

    def describe(self) -> dict[str, str]:
        return {"backend": self._name, "version": "1", "threads": "1"}


class LittleSlower(Slow):
    name = "little slower"
    least_s = 0.028


class FarSlower(Slow):
    name = "far slower"
    least_s = 0.080


class Broken(Slow):
    name = "broken"

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        raise ModelError("this graph has an operator without a kernel")


class Crashing(Slow):
    name = "crashing"

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        os._exit(7)


class Hanging(Slow):
    name = "hanging"

    def load(self, variant: VariantDirectory, *, threads: int | None) -> Session:
        time.sleep(600)
        raise AssertionError


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RUNS_PER_ROUND", 5)


@pytest.fixture
def variant(tmp_path: Path) -> VariantDirectory:
    return make_variant(tmp_path / "fp32")


def rounds_of(variant: VariantDirectory) -> list[str]:
    """Return the names of the backends that ran, once per uninterrupted series of runs."""
    names = [line.rpartition(" ")[0] for line in (variant.path / "runs").read_text().splitlines()]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


def test_candidates_alternate_and_the_faster_one_has_the_smaller_time(variant: VariantDirectory) -> None:
    slow, slower = Candidate(variant, Slow()), Candidate(variant, LittleSlower())
    times_ms = benchmark_candidates([slow, slower], threads=1)
    assert 20 <= times_ms[slow] < times_ms[slower]
    assert rounds_of(variant)[-2 * benchmark.ROUNDS :] == ["slow", "little slower"] * benchmark.ROUNDS


def test_a_much_slower_candidate_skips_the_remaining_rounds(variant: VariantDirectory) -> None:
    slow, far = Candidate(variant, Slow()), Candidate(variant, FarSlower())
    times_ms = benchmark_candidates([slow, far], threads=1)
    assert times_ms[far] >= 80
    assert rounds_of(variant)[-5:] == [*["slow", "far slower"] * benchmark.ROUNDS_BEFORE_SKIPPING, "slow"]


def test_each_candidate_has_a_process_and_none_remains(variant: VariantDirectory) -> None:
    benchmark_candidates([Candidate(variant, Slow()), Candidate(variant, LittleSlower())], threads=1)
    pids = {int(line.rpartition(" ")[2]) for line in (variant.path / "runs").read_text().splitlines()}
    assert len(pids - {os.getpid()}) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_candidates_that_fail_are_left_out(variant: VariantDirectory) -> None:
    slow = Candidate(variant, Slow())
    assert list(benchmark_candidates([Candidate(variant, Broken()), Candidate(variant, Crashing()), slow], threads=1)) == [slow]


def test_if_all_candidates_fail_the_first_error_is_raised(variant: VariantDirectory) -> None:
    with pytest.raises(ModelError, match=r"^this graph has an operator without a kernel$"):
        benchmark_candidates([Candidate(variant, Broken()), Candidate(variant, Crashing())], threads=1)


def test_a_worker_that_does_not_reply_is_killed(variant: VariantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RESULT_LIMIT_S", 3.0)
    with pytest.raises(OperationError, match="^fp32 on hanging: the worker process must answer within 3 s, but it did not$"):
        benchmark_candidates([Candidate(variant, Hanging())], threads=1)
