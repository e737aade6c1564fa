"""A worker for first runs in which the runtime crashes: a real segmentation fault, on the graphs that the environment names.

CRASHES_ON=half:Gemm       a Gemm with a weight in half precision
CRASHES_ON=integer:Conv    a Conv with a dequantized weight
CRASHES_ON=any:            every graph
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import onnx

from accel.first_run import FirstRunRequest
from accel.first_run_worker import first_run
from edgewright.contracts import wire
from edgewright.worker_process import serve

VARIABLE = "CRASHES_ON"


def main() -> None:
    """Answer the requests on standard input, or end by SIGSEGV."""
    serve(lambda request: _run(wire.decode(request, FirstRunRequest, what="the request")), once=False)


def _run(request: FirstRunRequest) -> bytes:
    form, _, operator = os.environ[VARIABLE].partition(":")
    path = Path(request.path)
    graph = onnx.load(path / "graph.onnx" if path.is_dir() else path, load_external_data=False).graph
    if form == "any" or any(node.op_type == operator and _reads(graph, node, form) for node in graph.node):
        os.kill(os.getpid(), signal.SIGSEGV)
    return first_run(request)


def _reads(graph: onnx.GraphProto, node: onnx.NodeProto, form: str) -> bool:
    dequantized = {name for one in graph.node if one.op_type == "DequantizeLinear" for name in one.output}
    return node.input[1].endswith("/half") if form == "half" else node.input[1] in dequantized


if __name__ == "__main__":
    main()
