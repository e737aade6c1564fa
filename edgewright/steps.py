"""The running steps of a command, and its temporary files, recorded where its parent process can read them.

A native crash of a runtime ends a process at once: no handler runs, and nothing is removed. So a command with such work runs in
a child process (supervised.py), which records its steps and its temporary files in memory that both share:

    with step("the calibration", "use another scheme"): ...
    with temporary(staging): ...

Without a recording, as in a library, both do nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a command."""

    text: str
    """A noun phrase that follows "during"."""
    help: str = ""
    """The advice if the process crashes here; empty takes that of the step around it."""


@dataclass(slots=True)
class Recording:
    """Steps, outermost first, and temporary paths in a file in memory; both processes hold its descriptor."""

    handle: int
    steps: list[Step] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    length: int = 0

    @classmethod
    def create(cls) -> Self:
        """Create an empty file in memory, which a child process inherits when it is forked."""
        return cls(os.memfd_create("edgewright-steps"))

    def write(self) -> None:
        """Write all steps and paths; what follows a shorter content is overwritten with spaces."""
        raw = json.dumps([[[one.text, one.help] for one in self.steps], self.paths]).encode()
        padded = raw.ljust(self.length)
        self.length = len(raw)
        os.pwrite(self.handle, padded, 0)

    def read(self) -> None:
        """Take the steps and paths that the other process has written last."""
        raw = os.pread(self.handle, os.fstat(self.handle).st_size, 0)
        with contextlib.suppress(ValueError):  # the process ended in the middle of writing
            steps, paths = json.loads(raw or b"[[], []]")
            self.steps, self.paths = [Step(*one) for one in steps], paths


_RECORDING: ContextVar[Recording | None] = ContextVar("recording", default=None)


def record_in(recording: Recording) -> None:
    """Record the steps of this process from now on."""
    _RECORDING.set(recording)


class step(contextlib.ContextDecorator):  # noqa: N801 - used like a function
    """Record that the block, or each call of the decorated function, is a step of the command.

    A class, because every run of a model is a step, and a generator would take a tenth of the time of a small model.
    """

    def __init__(self, text: str, help: str = "") -> None:
        self._step = (text, help)

    def __enter__(self) -> None:
        recording = _RECORDING.get()
        if recording is not None:
            recording.steps.append(Step(*self._step))
            recording.write()

    def __exit__(self, *error: object) -> None:
        recording = _RECORDING.get()
        if recording is not None:
            recording.steps.pop()
            recording.write()


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[None]:
    """Record that the file or directory `path` is removed after the block, also if the process crashes in the block."""
    recording = _RECORDING.get()
    if recording is None:
        yield
        return
    absolute = str(path.absolute())
    recording.paths.append(absolute)
    recording.write()
    try:
        yield
    finally:
        if not path.exists():  # an interrupt can end the removal early; the parent removes the rest
            recording.paths.remove(absolute)
            recording.write()
