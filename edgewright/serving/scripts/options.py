"""An entry script or a model without one, and how its worker processes run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgewright.serving.scripts.messages import WorkerSettings
from hardware_profiles.processors import usable_processors

SCRIPT_WORKER = "edgewright.serving.scripts.worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptOptions:
    """An entry script or a model without one, and how it is run."""

    path: Path
    name: str = "model"
    """Of the model in routes and answers."""
    model_directory: Path | None = None
    worker_count: int = 1
    init_timeout_s: float = 300.0
    scoring_timeout_s: float = 60.0
    queue_timeout_s: float = 0.5
    max_waiting: int = 1000
    """Calls that may wait for a worker at the same time."""
    worker_module: str = SCRIPT_WORKER
    """The program of the worker processes."""
    trust: bool = False
    """True if the model file may hold code, as a pickle does."""

    @property
    def subject(self) -> str:
        """Name of what answers requests, for messages."""
        return "the script" if self.worker_module == SCRIPT_WORKER else "the model"

    @property
    def start(self) -> str:
        """Name of what a worker does first, for messages."""
        return f"init() of {self.path.name}" if self.worker_module == SCRIPT_WORKER else f"loading {self.path.name}"

    def settings(self) -> str:
        """Return the argument of a worker process."""
        directory = None if self.model_directory is None else str(self.model_directory.resolve())
        settings = WorkerSettings(path=str(self.path.resolve()), name=self.name, model_directory=directory, trust=self.trust)
        return msgspec.json.encode(settings).decode()


def worker_environment(worker_count: int) -> dict[str, str]:
    """Return the environment of a worker, which sees the same packages as this process and its part of the processors."""
    paths = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    threads = {} if worker_count == 1 else {"OMP_NUM_THREADS": str(max(1, usable_processors() // worker_count))}
    return {**threads, **os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
