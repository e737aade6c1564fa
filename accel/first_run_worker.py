"""Worker process of `first_run.py`: load and run graphs, one request each, until standard input ends."""

from __future__ import annotations

from pathlib import Path

from accel.backends.choose import load_session
from accel.backends.onnxruntime_cpu import load_graph
from accel.first_run import FirstRunRequest
from accel.latency import synthetic_inputs
from edgewright.contracts import wire
from edgewright.contracts.variant import VariantDirectory
from edgewright.worker_process import serve


def main() -> None:
    """Answer the requests on standard input."""
    import onnxruntime  # noqa: F401  imported while no request waits

    serve(lambda request: first_run(wire.decode(request, FirstRunRequest, what="the request")), once=False)


def first_run(request: FirstRunRequest) -> bytes:
    """Load and run the graph; return the error, which the parent process will get itself, or nothing."""
    path = Path(request.path)
    try:
        if path.is_dir():
            variant = VariantDirectory.open(path)
            session, inputs = load_session(variant, backend=request.backend), variant.config.inputs
        else:
            session = load_graph(path, precision=request.precision)
            inputs = session.inputs
        session.run(synthetic_inputs(inputs, 1))
        session.close()
    except Exception as error:  # noqa: BLE001  whatever Python can report is no crash
        return wire.encode(str(error))
    return b""


if __name__ == "__main__":
    main()
