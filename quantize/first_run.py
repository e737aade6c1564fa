"""Load and run a new graph in a worker process first: a runtime that crashes on it ends the worker, not the command."""

from __future__ import annotations

from pathlib import Path

from accel.bench import WorkerRequest
from edgewright.contracts import wire
from edgewright.contracts.variant import BackendName
from edgewright.errors import EdgewrightError
from edgewright.worker_process import WorkerEndedError, WorkerProcess

LIMIT_S = 300.0


def crash_of(graph: Path) -> str | None:
    """Return the end of the worker that loads and runs `graph` if it crashes, or None; an error in one line is no crash."""
    request = WorkerRequest(
        path=str(graph),
        is_variant=False,
        backend=BackendName.ONNXRUNTIME,
        batch=1,
        threads=None,
        runs=1,
        time_limit_s=1.0,
    )
    with WorkerProcess("accel.bench_worker", subject="onnxruntime") as worker:
        try:
            worker.ask(wire.encode(request), limit_s=LIMIT_S)
        except WorkerEndedError as error:
            return str(error)
        except EdgewrightError:
            return None
    return None
