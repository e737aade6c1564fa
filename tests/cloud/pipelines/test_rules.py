"""The rules of jobs, played against random worlds in which processes end, fail and are killed at any moment."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from cloud.pipelines.rules import Finish, Launch, Note, Observed, Phase, Prepare, Stop, Stored, next_actions
from edgewright.contracts.models.registration import SourceFile
from edgewright.contracts.pipelines.definition import Pipeline, Step
from edgewright.contracts.pipelines.jobs import JobState, StepRecord, StepState

FILE = SourceFile(path="s.py", digest="sha256:" + "0" * 64, size=1)
NOW = datetime(2026, 12, 1, tzinfo=UTC)


class World:
    """A job, its processes, and an engine that may be killed between any two actions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        names = [f"s{number}" for number in range(self.random.randint(1, 6))]
        self.pipeline = Pipeline(
            steps=tuple(
                Step(
                    name=name,
                    script="s.py",
                    files=(FILE,),
                    retries=self.random.choice((0, 0, 2)),
                    after=tuple(other for other in names[:index] if self.random.random() < 0.4),
                )
                for index, name in enumerate(names)
            )
        )
        self.records = {name: StepRecord(name=name) for name in names}
        self.seen: dict[str, Observed] = {}
        self.succeeded: set[str] = set()
        self.is_canceling = False
        self.end: Finish | None = None
        self.places = self.random.choice((1, 2, 8))
        self.chance_of_failure = self.random.choice((0.0, 0.2))

    def tick(self) -> None:
        """Let the engine act once; it is killed before some of its actions."""
        job = Stored(pipeline=self.pipeline, steps=tuple(self.records.values()), is_canceling=self.is_canceling)
        actions = next_actions(job, self.seen, places=self.places, now=NOW + timedelta(seconds=1))
        for action in actions:
            if self.random.random() < 0.1:
                return  # killed
            match action:
                case Prepare(name, attempt):
                    step = self.pipeline.step(name)
                    assert step.needs() <= self.succeeded, "a step starts after those that it needs"
                    assert name not in self.seen or self.seen[name].phase in (Phase.ENDED, Phase.LOST)
                    assert 1 <= attempt <= step.retries + 1, "no more attempts than retries permit"
                    assert not self.is_canceling
                    self.seen[name] = Observed(attempt=attempt, phase=Phase.PREPARED)
                case Launch(name):
                    assert self.seen[name].phase is Phase.PREPARED
                    self.change(name, Phase.RUNNING)
                case Stop(name):
                    assert self.is_canceling
                    self.change(name, Phase.LOST)
                case Note(record):
                    self.records[record.name] = record
                case Finish():
                    self.end = action
        running = [seen for seen in self.seen.values() if seen.phase is Phase.RUNNING]
        assert len(running) <= self.places

    def live(self) -> None:
        """Let processes end, fail or be killed, and an operator cancel."""
        for name, seen in list(self.seen.items()):
            if seen.phase is Phase.RUNNING and self.random.random() < 0.4:
                if self.random.random() < self.chance_of_failure:
                    self.change(name, self.random.choice((Phase.LOST, Phase.ENDED)), "exit code 1")
                else:
                    self.change(name, Phase.ENDED)
                    self.succeeded.add(name)
        self.is_canceling = self.is_canceling or self.random.random() < 0.01

    def change(self, name: str, phase: Phase, reason: str = "") -> None:
        reason = reason if phase is Phase.ENDED else ""
        self.seen[name] = Observed(attempt=self.seen[name].attempt, phase=phase, reason=reason)


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_in_every_world_a_job_ends_with_the_state_that_its_steps_have(first: int) -> None:
    ends = set()
    for seed in range(first, first + 250):
        world = World(seed)
        for _ in range(2000):
            world.tick()
            if world.end is not None:
                break
            world.live()
        assert world.end is not None, f"seed {seed}: {world.records}"
        states = {record.name: record.state for record in world.records.values()}
        assert not any(seen.phase is Phase.RUNNING for seen in world.seen.values())
        assert {name for name, state in states.items() if state is StepState.COMPLETED} <= world.succeeded
        if world.end.state is JobState.COMPLETED:
            assert set(states.values()) == {StepState.COMPLETED}
        elif world.end.state is JobState.FAILED:
            assert StepState.FAILED in states.values()
            assert world.end.reason
        else:
            assert world.is_canceling
        ends.add(world.end.state)
    assert ends == {JobState.COMPLETED, JobState.FAILED, JobState.CANCELED}
