"""The files of a job, and what they tell about its steps.

    ROOT/<job>/<step>/<attempt>/    complete or absent
        work/                       the files of the step, the working directory; the script writes work/outputs and work/logs
        data/<output>/              the folder of a named output
        order.json, lock, begun, ended.json, log.txt    (step_process.py)

An attempt begins with empty folders. The outputs of a step are those of its newest attempt.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from cloud.pipelines.rules import Observed, Phase
from cloud.registry.blobs import BlobStore
from edgewright.contracts.files import replace_directory, staging_beside, write_atomically
from edgewright.contracts.models.registration import SourceFile, check_relative
from edgewright.contracts.pipelines.definition import FILES_REPOSITORY, Pipeline, Step
from edgewright.contracts.pipelines.jobs import JobFile
from edgewright.errors import NotFoundError

MAX_LISTED = 10_000
_METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The folder of one job."""

    path: Path

    def attempt(self, step: str, number: int | None = None) -> Path:
        """Return the folder of an attempt; without a number, of the newest one that is complete."""
        return self.path / step / str(self.newest(step) if number is None else number)

    def newest(self, step: str) -> int:
        """Return the number of the newest complete attempt; 0 without one."""
        numbers = [int(path.name) for path in (self.path / step).glob("[1-9]*") if path.name.isdecimal()]
        return max(numbers, default=0)

    def log(self, step: str) -> Path:
        """Return the log of the newest attempt."""
        return self.attempt(step) / "log.txt"

    def output(self, step: str, name: str) -> Path:
        """Return the folder of an output of the newest attempt."""
        return self.attempt(step) / "data" / name

    def observe(self, pipeline: Pipeline) -> dict[str, Observed]:
        """Return the newest attempt of each step that has one."""
        found = {}
        for step in pipeline.steps:
            number = self.newest(step.name)
            if number:
                found[step.name] = _observed(self.attempt(step.name, number), number)
        return found

    def leader(self, step: str) -> int | None:
        """Return the id of the process group of a step that runs; None if it does not."""
        attempt = self.attempt(step)
        try:
            text = (attempt / "begun").read_text("ascii").strip()
        except FileNotFoundError:
            return None
        return int(text) if text.isdecimal() and _is_locked(attempt / "lock") else None

    def prepare(self, step: Step, number: int, blobs: BlobStore, order: Mapping[str, Any]) -> None:
        """Write the files of an attempt; a repetition changes nothing.

        Raises:
            NotFoundError: a file is no longer in the registry.
            StorageFullError: the disk is full; nothing of this attempt is left.
        """
        target = self.attempt(step.name, number)
        if target.exists():
            return
        with staging_beside(target) as staging:
            for file in step.files:
                _copy(blobs.blob_path(FILES_REPOSITORY, file.digest), staging / "work", file)
            for name in ("outputs", "logs"):
                (staging / "work" / name).mkdir(parents=True, exist_ok=True)
            for name in step.outputs:
                (staging / "data" / name).mkdir(parents=True)
            write_atomically(staging / "order.json", json.dumps(order).encode(), mode=0o600)
            replace_directory(staging, target)
        for earlier in range(1, number):
            shutil.rmtree(self.attempt(step.name, earlier), ignore_errors=True)

    def files(self, step: Step) -> list[JobFile]:
        """Return the files of a step, at most `MAX_LISTED`."""
        found: list[JobFile] = []
        for name, path in _shown(self.attempt(step.name), step):
            if len(found) == MAX_LISTED:
                break
            found.append(JobFile(step=step.name, path=name, size=path.stat().st_size))
        return sorted(found, key=lambda file: file.path)

    def file(self, step: Step, name: str) -> Path:
        """Return a file of a step.

        Raises:
            NotFoundError: the step has no such file.
        """
        wanted = PurePosixPath(name).as_posix()
        for shown, path in _shown(self.attempt(step.name), step):
            if shown == wanted:
                return path
        raise NotFoundError(f"step {step.name} has no file {name[:200]!r}: see the list of its files")


def _observed(attempt: Path, number: int) -> Observed:
    # The end is read after the lock: a process notes it before it unlocks.
    is_locked = _is_locked(attempt / "lock")
    began_at = _time_of(attempt / "begun")
    ended = attempt / "ended.json"
    try:
        reason = str(json.loads(ended.read_bytes())["reason"])
    except FileNotFoundError:
        phase = Phase.RUNNING if is_locked else Phase.PREPARED if began_at is None else Phase.LOST
        return Observed(attempt=number, phase=phase, began_at=began_at)
    return Observed(attempt=number, phase=Phase.ENDED, reason=reason, began_at=began_at, ended_at=_time_of(ended))


def _time_of(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _shown(attempt: Path, step: Step) -> Iterator[tuple[str, Path]]:
    """Yield the names and paths of the files that a client sees; links that lead out of the attempt are left out."""
    root = attempt.resolve()
    roots = {name: attempt / "work" / name for name in ("outputs", "logs")}
    roots |= {name: attempt / "data" / name for name in step.outputs}
    for name, folder in roots.items():
        for path in folder.rglob("*"):
            if path.is_file() and path.resolve().is_relative_to(root):
                yield f"{name}/{path.relative_to(folder).as_posix()}", path
    for path in (attempt / "work" / ".edgewright" / "runs").glob(f"*/{_METRICS}"):
        yield _METRICS, path


def _copy(blob: Path, folder: Path, file: SourceFile) -> None:
    """Copy a blob; a script may write to its copy, so it is not a link."""
    destination = folder / check_relative(file.path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(blob, destination)
    except FileNotFoundError as error:
        raise NotFoundError(f"{file.path} must be in the registry, but its file {blob.name} is missing") from error
    destination.chmod(0o600)
