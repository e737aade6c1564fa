"""Measure ways to run a model against each other: each in a process of its own, all of them taking turns.

    start       a process per entrant (contestant.py) loads its variant and warms up
    turns       one entrant at a time runs for a moment while the others wait, round after round
    result      the median of each entrant's turns

Turns, because a machine that is busy for a second would else slow one entrant only. Processes, because runtimes disturb each
other within one: onnxruntime needed 20.1 ms for a ResNet-50 that takes it 11.8, once OpenVINO had been loaded and closed beside
it. An entrant that is far behind after two rounds takes no further turn; it keeps the times that it has.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from accel.backends.backend import Backend
from edgewright import errors
from edgewright.contracts import wire
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError, OperationError

ROUNDS = 5
ROUNDS_BEFORE_LEAVING = 2
FAR_BEHIND = 1.5
"""How many times as slow as the fastest an entrant must be to take no further turn."""
RUNS_PER_TURN = 20
TURN_LIMIT_S = 0.8
"""When a turn ends early; three runs are always made."""
ANSWER_LIMIT_S = 120.0
"""How long an entrant may take to load and warm up, or to take one turn."""


@dataclass(frozen=True, slots=True, eq=False)
class Entrant:
    """One way to run a model: a variant on a backend."""

    variant: VariantDirectory
    backend: Backend

    @property
    def name(self) -> str:
        """What it is called in tables and in what is remembered."""
        return f"{self.variant.config.variant} on {self.backend.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """The first line that a contestant reads; every further one asks for a turn."""

    variant: str
    """The path of the variant's directory."""
    backend: str
    """The backend's class, `module:name`."""
    threads: int | None
    runs_per_turn: int
    turn_limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A line that a contestant writes: that it is ready (no time), what a turn's runs took at the median, or what went wrong."""

    median_ms: float | None = None
    error: tuple[str, str] | None = None


def hold_contest(entrants: Sequence[Entrant], *, threads: int | None) -> dict[Entrant, float]:
    """Return what one sample takes each entrant, in milliseconds; those that fail to load or to run are left out.

    Raises:
        EdgewrightError: the first entrant's failure, when all fail.
    """
    with contextlib.ExitStack() as running:
        contestants = [running.enter_context(_started(entrant, threads)) for entrant in entrants]
        for contestant in contestants:
            contestant.get_ready()
        for round_number in range(ROUNDS):
            for contestant in _taking_part(contestants, round_number):
                contestant.take_turn()
    finished = {one.entrant: one.median_ms for one in contestants if one.failure is None}
    if not finished:
        raise contestants[0].failure or OperationError("a contest needs an entrant")
    return finished


def _taking_part(contestants: Sequence[Contestant], round_number: int) -> list[Contestant]:
    able = [one for one in contestants if one.failure is None]
    if round_number < ROUNDS_BEFORE_LEAVING or not able:
        return able
    fastest_ms = min(one.median_ms for one in able)
    return [one for one in able if one.median_ms <= FAR_BEHIND * fastest_ms]


class Contestant:
    """An entrant's process, seen from here."""

    def __init__(self, entrant: Entrant, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.entrant = entrant
        self.failure: EdgewrightError | None = None
        self._process = process
        self._questions: IO[bytes] = process.stdin
        self._answers: IO[bytes] = process.stdout
        self._times_ms: list[float] = []

    @property
    def median_ms(self) -> float:
        """The median of the turns that it took."""
        return statistics.median(self._times_ms)

    def ask(self, line: bytes) -> None:
        """Write a line; one that is gone by now is missed when it should answer."""
        with contextlib.suppress(BrokenPipeError):
            self._questions.write(line + b"\n")
            self._questions.flush()

    def get_ready(self) -> None:
        """Wait until it has loaded its variant and is warm, or has failed."""
        self._answer()

    def take_turn(self) -> None:
        """Let it run for a moment and keep what that took."""
        self.ask(b"turn")
        median_ms = self._answer()
        if median_ms is not None:
            self._times_ms.append(median_ms)

    def _answer(self) -> float | None:
        """Wait for a line; keep the failure that it tells of, or that none comes."""
        too_late = threading.Timer(ANSWER_LIMIT_S, self._process.kill)
        too_late.start()
        try:
            line = self._answers.readline()
        finally:
            too_late.cancel()
        if not line:
            self.failure = OperationError(
                f"{self.entrant.name}: the measuring process must answer within {ANSWER_LIMIT_S:.0f} s, "
                f"but it ended with {self._process.wait()}"
            )
            return None
        reply = wire.decode(line, Reply, what="the measuring process's answer", error=OperationError)
        if reply.error is not None:
            kind, text = reply.error
            raised_as: type[EdgewrightError] = getattr(errors, kind, OperationError)
            self.failure = raised_as(text)
        return reply.median_ms


@contextlib.contextmanager
def _started(entrant: Entrant, threads: int | None) -> Iterator[Contestant]:
    """Start an entrant's process, which sees the same packages as this one; it ends with its standard input."""
    kind = type(entrant.backend)
    invitation = Invitation(
        variant=str(entrant.variant.path.absolute()),
        backend=f"{kind.__module__}:{kind.__qualname__}",
        threads=threads,
        runs_per_turn=RUNS_PER_TURN,
        turn_limit_s=TURN_LIMIT_S,
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "accel.backends.contestant"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(place).absolute()) for place in sys.path if place)},
    )
    contestant = Contestant(entrant, process)
    try:
        contestant.ask(wire.encode(invitation))
        yield contestant
    finally:
        process.kill()
        process.communicate()
