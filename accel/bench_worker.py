"""Worker process of `bench`: load one variant, run it, return its times and its memory.

The request is a `WorkerRequest`, the result a `WorkerMeasurement` (edgewright/worker_process.py).
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import onnxruntime

from accel.backends.backend import Session
from accel.backends.choose import AUTO, load_session
from accel.backends.onnxruntime_cpu import load_graph
from accel.bench import WorkerMeasurement, WorkerRequest, dependent_samples
from accel.independence import COUNT, samples_are_independent
from accel.latency import measure_latency, synthetic_inputs
from edgewright.contracts import wire
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import BackendName, VariantDirectory
from edgewright.errors import BadInputError
from edgewright.worker_process import serve


def main() -> None:
    """Answer the one request on standard input."""
    serve(lambda request: wire.encode(measured(wire.decode(request, WorkerRequest, what="the request"))))


def measured(request: WorkerRequest) -> WorkerMeasurement:
    """Load and run the requested graph or variant; return its times and its memory."""
    onnxruntime.set_default_logger_severity(4)
    np.ones((64, 64)) @ np.ones((64, 64))  # allocates NumPy's threads and buffers before memory is measured
    runtime_mib = _memory_mib("VmRSS")
    started = time.perf_counter()
    session, inputs = _load(request)
    load_ms = (time.perf_counter() - started) * 1000
    latency = measure_latency(lambda: session.run(inputs), runs=request.runs, time_limit_s=request.time_limit_s)
    return WorkerMeasurement(
        backend=session.describe()["backend"],
        load_ms=load_ms,
        latency=latency,
        runtime_mib=runtime_mib,
        peak_mib=_memory_mib("VmHWM"),
    )


def _load(request: WorkerRequest) -> tuple[Session, Tensors]:
    if request.is_variant:
        variant = VariantDirectory.open(Path(request.path))
        session = load_session(variant, backend=request.backend, threads=request.threads)
        return session, synthetic_inputs(variant.config.inputs, request.batch)
    if request.backend not in (AUTO, BackendName.ONNXRUNTIME):
        raise BadInputError(
            f"an .onnx file runs on {BackendName.ONNXRUNTIME} only, not on {request.backend!r}; package it for others"
        )
    graph = load_graph(Path(request.path), threads=request.threads)
    if request.batch > 1 and not samples_are_independent(graph, Samples(synthetic_inputs(graph.inputs, COUNT))):
        raise BadInputError(dependent_samples(request.path, request.batch))
    return graph, synthetic_inputs(graph.inputs, request.batch)


def _memory_mib(field: str) -> float:
    """Read a memory field of this process; `getrusage` would include the peak of the parent process."""
    match = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert match is not None
    return int(match.group(1)) / 1024


if __name__ == "__main__":
    main()
