"""Measure the processor time per request of the scoring server, by number of clients and protocol.

    .venv/bin/python benchmarks/serving.py [--requests N]

The server runs in a separate process. The result is its processor time (user and system, all threads) per request, because wall
time on a shared machine depends on other load. The clients are threads of this process, so requests per second are a lower bound.
The model is a small classifier (64 features, 64 hidden, 10 classes) with random weights.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
import urllib3
from onnx import TensorProto, helper, numpy_helper

from edgewright.command_line import print_table
from edgewright.contracts.variant import LayerKind, Precision, TensorSpec, Tolerance, VariantConfig, VariantDirectory

FEATURES, HIDDEN, CLASSES = 64, 64, 10
CLIENTS = (1, 4, 16)

SERVER = """
import sys
from pathlib import Path
from accel.backends.choose import load_session
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.variants.app import ScoringApp
from edgewright.serving.http.server import listen, run_server

variant = VariantDirectory.open(Path(sys.argv[1]))
socket = listen()
print(socket.getsockname()[1], flush=True)
run_server(ScoringApp(load_session(variant, threads=1), variant.config, model="bench", version=1), socket=socket)
"""


@dataclass(frozen=True)
class Load:
    """One kind of request."""

    name: str
    path: str
    body: bytes
    headers: dict[str, str]


def main() -> None:
    """Measure every protocol with every number of clients."""
    parser = argparse.ArgumentParser(description="What a request costs.")
    parser.add_argument("--requests", type=int, default=4000, help="requests per measurement")
    count = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as place, served(make_variant(Path(place))) as (process, port):
        pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=max(CLIENTS), timeout=60)
        rows = [measure(pool, process, load, clients, count) for load in loads() for clients in CLIENTS]
    columns = ("PROTOCOL", "CLIENTS", "CPU_US_PER_REQUEST", "REQUESTS_PER_S", "P50_MS", "P99_MS", "SERVER_RSS_MIB")
    print_table(columns, rows)


def measure(
    pool: urllib3.HTTPConnectionPool, process: psutil.Process, load: Load, clients: int, count: int
) -> tuple[object, ...]:
    """Send `count` requests from `clients` threads and return one line of the table."""

    def ask(_number: int) -> float:
        started = time.perf_counter()
        reply = pool.request("POST", load.path, body=load.body, headers=load.headers)
        assert reply.status == 200, reply.data
        return (time.perf_counter() - started) * 1000

    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(ask, range(200)))
        cpu_before_s, started = cpu_s(process), time.perf_counter()
        times_ms = list(threads.map(ask, range(count)))
        took_s, cpu_s_used = time.perf_counter() - started, cpu_s(process) - cpu_before_s
    p50, p99 = np.percentile(times_ms, [50, 99])
    rss_mib = process.memory_info().rss / (1 << 20)
    return (
        load.name,
        clients,
        round(cpu_s_used / count * 1e6),
        round(count / took_s),
        round(p50, 2),
        round(p99, 2),
        round(rss_mib),
    )


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time that a process has used."""
    used = process.cpu_times()
    return float(used.user + used.system)


def loads() -> list[Load]:
    """Return the same sample in each protocol."""
    x = np.random.default_rng(0).random((1, FEATURES)).astype(np.float32)
    stream = io.BytesIO()
    np.save(stream, x)
    shape = {"name": "x", "shape": [1, FEATURES], "datatype": "FP32"}
    binary = json.dumps({"inputs": [{**shape, "parameters": {"binary_data_size": x.nbytes}}]}).encode()
    infer = "/v2/models/bench/infer"
    json_type = {"content-type": "application/json"}
    return [
        Load("json", "/score", json.dumps({"data": x.tolist()}).encode(), json_type),
        Load("npy", "/score", stream.getvalue(), {"content-type": "application/x-npy"}),
        Load("v2 json", infer, json.dumps({"inputs": [{**shape, "data": x.reshape(-1).tolist()}]}).encode(), json_type),
        Load("v2 binary", infer, binary + x.tobytes(), {"inference-header-content-length": str(len(binary))}),
    ]


@contextmanager
def served(variant: VariantDirectory) -> Iterator[tuple[psutil.Process, int]]:
    """Serve `variant` in a separate process until the block ends."""
    command = [sys.executable, "-c", SERVER, str(variant.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield psutil.Process(process.pid), int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(timeout=60)


def make_variant(path: Path) -> VariantDirectory:
    """Write the classifier."""
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal(shape).astype(np.float32) for shape in ((FEATURES, HIDDEN), (HIDDEN, CLASSES))]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w0"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w1"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(array, f"w{place}") for place, array in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path / LayerKind.GRAPH.file_name)
    config = VariantConfig(
        variant="fp32",
        backend="onnxruntime",
        precision=Precision.FP32,
        inputs=(TensorSpec(name="x", dtype="float32", shape=("N", FEATURES)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=("N", CLASSES)),),
        tolerance=Tolerance(max_relative_difference=1e-3, min_agreement=1.0),
        size_bytes=sum(array.nbytes for array in weights),
    )
    return VariantDirectory.write(path, config)


if __name__ == "__main__":
    main()
