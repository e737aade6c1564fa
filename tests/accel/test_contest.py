"""Ways to run a model, measured against each other by real processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from accel.backends import contest
from accel.backends.backend import Session, Tensors
from accel.backends.contest import Entrant, hold_contest
from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantConfig, VariantDirectory
from edgewright.errors import ModelError, OperationError
from tests.support.tiny_variants import make_variant


class Slow:
    """Runs on onnxruntime and takes 20 ms at least; notes every run in the variant's folder."""

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
        found = self._real.run(inputs)
        while time.perf_counter() < ends_at:
            pass
        with (self._folder / "runs").open("a") as notes:
            notes.write(f"{self._name} {os.getpid()}\n")
        return found

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
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "RUNS_PER_TURN", 5)


@pytest.fixture
def variant(tmp_path: Path) -> VariantDirectory:
    return make_variant(tmp_path / "fp32")


def turns_of(variant: VariantDirectory) -> list[str]:
    """Return who ran, in order, once per unbroken row of runs."""
    names = [line.rpartition(" ")[0] for line in (variant.path / "runs").read_text().splitlines()]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


def test_entrants_take_turns_and_the_faster_has_the_smaller_time(variant: VariantDirectory) -> None:
    slow, slower = Entrant(variant, Slow()), Entrant(variant, LittleSlower())
    found = hold_contest([slow, slower], threads=1)
    assert 20 <= found[slow] < found[slower]
    assert turns_of(variant)[-2 * contest.ROUNDS :] == ["slow", "little slower"] * contest.ROUNDS


def test_one_that_is_far_behind_takes_no_further_turn(variant: VariantDirectory) -> None:
    slow, far = Entrant(variant, Slow()), Entrant(variant, FarSlower())
    found = hold_contest([slow, far], threads=1)
    assert found[far] >= 80
    assert turns_of(variant)[-5:] == [*["slow", "far slower"] * contest.ROUNDS_BEFORE_LEAVING, "slow"]


def test_each_runs_in_a_process_of_its_own_and_none_is_left(variant: VariantDirectory) -> None:
    hold_contest([Entrant(variant, Slow()), Entrant(variant, LittleSlower())], threads=1)
    pids = {int(line.rpartition(" ")[2]) for line in (variant.path / "runs").read_text().splitlines()}
    assert len(pids - {os.getpid()}) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_those_that_fail_are_left_out(variant: VariantDirectory) -> None:
    slow = Entrant(variant, Slow())
    assert list(hold_contest([Entrant(variant, Broken()), Entrant(variant, Crashing()), slow], threads=1)) == [slow]


def test_when_all_fail_the_first_failure_is_told(variant: VariantDirectory) -> None:
    with pytest.raises(ModelError, match=r"^this graph has an operator without a kernel$"):
        hold_contest([Entrant(variant, Broken()), Entrant(variant, Crashing())], threads=1)


def test_one_that_does_not_answer_is_ended(variant: VariantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "ANSWER_LIMIT_S", 3.0)
    with pytest.raises(OperationError, match=r"^fp32 on hanging: the measuring process must answer within 3 s, but it ended"):
        hold_contest([Entrant(variant, Hanging())], threads=1)
