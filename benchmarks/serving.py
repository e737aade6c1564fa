"""Compare the scoring server with its peers, in one run: requests, latency, processor time, start and memory.

    .venv/bin/python benchmarks/serving.py [--seconds S] [--rounds N] [--peers FOLDER] [--only TEXT]

Ours runs with all that a service has: validation, a key, limits and metrics. The peers answer the same request for the same
model without them. FastAPI and azureml-inference-server-http are installed into an environment of their own, at FOLDER. Each
server is measured with 16 connections and with one, in rounds that take turns, so that other load on the machine meets all of
them; the best round counts. `CPU_US` is processor time of the whole process tree per request, which other load changes least.
The second table has ratios to azureml-inference-server-http with the same work. The last lines have the processor time of the
`run` of the script alone, which both servers need, and what each server needs beside it. The batched script scores waiting
requests together, so it needs less than that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from benchmarks.measuring.serving_table import print_beside, print_results
from edgewright.contracts.variant import LayerKind, Precision, TensorSpec, Tolerance, VariantConfig, VariantDirectory
from edgewright.serving.http.keys import write_new_keys
from edgewright.serving.http.server import listen

FEATURES, HIDDEN, CLASSES = 64, 64, 10
CONNECTIONS = (16, 1)
PEERS = ("azureml-inference-server-http", "fastapi", "onnxruntime", "scikit-learn", "uvicorn[standard]")
HERE = Path(__file__).parent
START_S = 30


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server: how it is started, and the request that it answers."""

    name: str
    work: str
    """Servers of the same work are compared."""
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def main() -> None:
    """Measure every server and print the table."""
    parser = argparse.ArgumentParser(description="Compare the scoring server with its peers.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "edgewright-serving-peers")
    parser.add_argument("--only", default="", help="measure the servers whose name has this text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        servers = [each for each in all_servers(Path(place), peers_python(options.peers)) if options.only in each.name]
        results: dict[str, list[dict[str, Any]]] = {each.name: [] for each in servers}
        alone_us: list[int] = []
        for _ in range(options.rounds):
            if any(each.work == "sklearn" for each in servers):
                alone_us.append(run_alone_us(Path(place), options.seconds))
            for server in servers:
                results[server.name].append(measure(server, Path(place), options.seconds))
                print(json.dumps({"server": server.name, **results[server.name][-1]}), file=sys.stderr, flush=True)
    print_results({each.name: each.work for each in servers}, results)
    if alone_us:
        print_beside(
            min(alone_us),
            {each.name: results[each.name] for each in servers if each.work == "sklearn" and "batched" not in each.name},
        )
    print(f"load average at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def peers_python(folder: Path) -> Path:
    """Return the interpreter of the peers' environment, which is made on first use."""
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        print(f"installing {', '.join(PEERS)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
        (folder / ".complete").touch()
    return python


def all_servers(place: Path, peers: Path) -> list[Server]:
    """Return ours and the peers; the port is appended to the command."""
    variant = make_variant(place / "bench")
    keys = place / "keys.json"
    write_new_keys(keys)
    bearer = {"Authorization": "Bearer " + json.loads(keys.read_text())["primary"]}
    ours = [sys.executable, "-m", "edgewright", "serve"]
    access = ["--keys", str(keys), "--port"]
    graph = str(variant.file(LayerKind.GRAPH))
    model = {"BENCHMARK_MODEL": graph, "OMP_NUM_THREADS": "1"}
    azureml = [str(peers.with_name("azmlinfsrv")), "--worker_count", "1", "--entry_script"]
    folder = HERE / "serving_peers"
    onnx_script, sklearn_script = str(folder / "score_onnx.py"), str(folder / "score_sklearn.py")
    return [
        Server(name="edgewright", work="onnx", command=[*ours, str(variant.path), "--threads", "1", *access], headers=bearer),
        Server(name="raw asyncio", work="onnx", command=[sys.executable, str(folder / "raw_asyncio.py"), graph]),
        Server(name="bare ASGI", work="onnx", command=[sys.executable, str(folder / "bare_asgi.py"), graph]),
        Server(name="FastAPI", work="onnx", command=[str(peers), str(folder / "fastapi_app.py"), graph]),
        Server(name="azureml", work="onnx", command=[*azureml, onnx_script, "--port"], environment=model),
        Server(
            name="edgewright script", work="sklearn", command=[*ours, sklearn_script, *access], headers=bearer, environment=model
        ),
        Server(
            name="edgewright batched script",
            work="sklearn",
            command=[*ours, str(folder / "score_sklearn_batched.py"), *access],
            headers=bearer,
            environment=model,
        ),
        Server(name="azureml script", work="sklearn", command=[*azureml, sklearn_script, "--port"], environment=model),
    ]


def measure(server: Server, place: Path, seconds: float) -> dict[str, Any]:
    """Start a server, load it with each number of connections, and return what was measured."""
    request = place / "request"
    with running(server) as (process, port, start_s):
        request.write_bytes(request_bytes(server, port))
        measured: dict[str, Any] = {"start_s": round(start_s, 2), "pss_mib": round(pss_mib(process))}
        for connections in CONNECTIONS:
            load, cpu_s = loaded(process, request, port, connections, seconds)
            measured[f"c{connections}"] = {
                "per_s": round(load["answers"] / load["seconds"]),
                "p50_ms": round(load["p50_ms"], 3),
                "p99_ms": round(load["p99_ms"], 3),
                "cpu_us": round(cpu_s / max(load["answers"], 1) * 1e6),
                "failures": load["failures"],
            }
    return measured


def run_alone_us(place: Path, seconds: float) -> int:
    """Return the processor time of the script's `run` in a loop, in microseconds."""
    file = place / "body"
    file.write_bytes(body())
    peers = HERE / "serving_peers"
    command = [sys.executable, str(peers / "run_alone.py"), str(peers / "score_sklearn.py"), str(file), str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)


def loaded(process: psutil.Process, request: Path, port: int, connections: int, seconds: float) -> tuple[dict[str, Any], float]:
    """Return the result of the load, and the processor time of the server meanwhile."""
    arguments = [request, "127.0.0.1", port, connections, seconds]
    command = [sys.executable, str(HERE / "measuring" / "http_load.py"), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        client.stdout.readline()  # the end of the warm-up
        before_s = tree_cpu_s(process)
        result: dict[str, Any] = json.loads(client.stdout.readline())
        return result, tree_cpu_s(process) - before_s


@contextmanager
def running(server: Server) -> Iterator[tuple[psutil.Process, int, float]]:
    """Run a server; yield its process, its port, and the seconds from its start to its first answer."""
    with listen() as free:
        port = int(free.getsockname()[1])
    environment = {**os.environ, **server.environment}
    started_s = time.perf_counter()
    with subprocess.Popen(
        [*server.command, str(port)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for_answer(server, process, port)
            yield psutil.Process(process.pid), port, time.perf_counter() - started_s
        finally:
            end(psutil.Process(process.pid))


def wait_for_answer(server: Server, process: subprocess.Popen[bytes], port: int) -> None:
    """Ask until the first right answer."""
    headers = {"Content-Type": "application/json", **server.headers}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/score", body(), headers)
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError as error:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise RuntimeError(f"{server.name} must answer, but it does not: {error}") from error
            time.sleep(0.01)


def end(process: psutil.Process) -> None:
    """End a server and its children."""
    family = [*process.children(recursive=True), process]
    process.terminate()
    _, left = psutil.wait_procs(family, timeout=10)
    for each in left:
        each.kill()


def tree_cpu_s(process: psutil.Process) -> float:
    """Return the processor time that a process and its children have used."""
    used = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(times.user + times.system for times in used))


def pss_mib(process: psutil.Process) -> float:
    """Return the memory of a process and its children, with a share of what they have in common."""
    return float(sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))) / (1 << 20)


def body() -> bytes:
    """Return one sample as JSON."""
    x = np.random.default_rng(0).random((1, FEATURES)).round(4)
    return json.dumps({"data": x.tolist()}).encode()


def request_bytes(server: Server, port: int) -> bytes:
    """Return the HTTP request that the load sends."""
    content = body()
    headers = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", "Content-Length": len(content), **server.headers}
    lines = ["POST /score HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


def make_variant(path: Path) -> VariantDirectory:
    """Write the classifier: 64 features, 64 hidden, 10 classes, random weights."""
    path.mkdir()
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
