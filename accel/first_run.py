"""Load and run a new graph in a worker process first: a runtime that crashes on it ends the worker, not the command.

The worker (first_run_worker.py) starts while this process prepares the graph, and stays for the next one; after a crash there is
a new worker. A graph that ran is not run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from edgewright.contracts import wire
from edgewright.contracts.variant import FLOAT_VARIANT, BackendName, LayerKind, Precision, VariantDirectory
from edgewright.errors import ModelError
from edgewright.worker_process import WorkerEndedError, WorkerProcess, WorkerTimeoutError

LIMIT_S = 300.0
_IN_THIS_PROCESS = (BackendName.ONNXRUNTIME, BackendName.OPENVINO)
"""The backends whose runtimes are libraries."""
WORKER = "accel.first_run_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRunRequest:
    """The request to the worker process."""

    path: str
    """A graph file, or a variant directory."""
    precision: Precision
    backend: str


class FirstRuns:
    """The first runs of graphs, in a worker process; a context manager that ends it."""

    def __init__(self, worker: str = WORKER) -> None:
        """Start `python -m worker` in the background."""
        self._module = worker
        self._worker: WorkerProcess | None = None
        self._ran: set[tuple[str, str]] = set()
        self._start()

    @classmethod
    @contextlib.contextmanager
    def shared(cls, first_runs: FirstRuns | None) -> Iterator[FirstRuns]:
        """Yield `first_runs`, or new ones that end with the block."""
        if first_runs is not None:
            yield first_runs
            return
        with cls() as own:
            yield own

    def crash_of(
        self, path: Path, *, precision: Precision = Precision.FP32, backend: str = BackendName.ONNXRUNTIME
    ) -> str | None:
        """Return the end of the worker that loads and runs a graph file or a variant if it crashes, or None.

        An error that is reported in one line is no crash: this process gets it as well.
        """
        graph = path / LayerKind.GRAPH.file_name if path.is_dir() else path
        key = (wire.digest_of(graph.read_bytes()), backend)
        if key in self._ran:
            return None
        request = FirstRunRequest(path=str(path), precision=precision, backend=backend)
        try:
            self._start().ask(wire.encode(request), limit_s=LIMIT_S)
        except (WorkerEndedError, WorkerTimeoutError) as error:
            self.close()
            return str(error).partition(": ")[2]
        self._ran.add(key)
        return None

    def check_variant(self, variant: VariantDirectory, *, backend: str | None = None) -> None:
        """Raise `ModelError` if a backend, or the variant's own, crashes on the variant."""
        config = variant.config
        backend = backend or config.backend
        crash = self.crash_of(variant.path, backend=backend) if backend in _IN_THIS_PROCESS else None
        if crash is not None:
            help = "export the model with another operator set" if config.variant == FLOAT_VARIANT else "use another scheme"
            raise ModelError(f"{variant.path}: {backend} must run the variant, but {crash}: {help}")

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the worker."""
        self.close()

    def close(self) -> None:
        """End the worker; the next graph gets a new one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _start(self) -> WorkerProcess:
        if self._worker is None:
            self._worker = WorkerProcess(self._module, subject="first run")
        return self._worker


def check_graph(graph: Path, source: Path, worker: str = WORKER) -> None:
    """Raise `ModelError` if onnxruntime crashes on the graph that `source` was converted to."""
    with FirstRuns(worker) as first_runs:
        crash = first_runs.crash_of(graph)
    if crash is not None:
        raise ModelError(
            f"{source}: onnxruntime must run the converted graph, but {crash}: export the model with another operator set"
        )
