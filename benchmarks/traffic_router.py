"""Cost of the router of traffic: one request through it beside the same request at the deployment's own address.

    .venv/bin/python benchmarks/traffic_router.py [--requests N] [--turns N]

Two services of `edgewright serve` answer a script; the router splits 90 to 10 between them. One client sends over one open
connection, one request at a time, to the direct address and to the router in turns, so that other load on the machine meets both.
Printed: median and p99 of each, the difference of the medians over all turns with the lowest and the highest turn, the processor
time of the router per request, and the split of all requests through it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from edgewright.command_line import print_table
from edgewright.contracts import wire
from edgewright.serving.traffic.rules import Traffic

BODY = b'{"data": [[1, 2, 3, 4]]}'
REQUEST = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
SHARES = {"blue": 90, "green": 10}


def start(stack: ExitStack, folder: Path, name: str, *arguments: str) -> tuple[str, psutil.Process]:
    """Start a command that writes a ready file; return its HOST:PORT and its process."""
    ready = folder / f"{name}.ready"
    command = [sys.executable, "-m", "edgewright", *arguments, "--port", "0", "--ready-file", str(ready)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    while not ready.exists():
        if process.poll() is not None:
            raise SystemExit(f"{name} has ended")
        time.sleep(0.05)
    return urlsplit(json.loads(ready.read_bytes())["url"]).netloc, psutil.Process(process.pid)


def measure(address: str, requests: int) -> tuple[list[float], Counter[str]]:
    """Send requests one at a time; return the time of each in us, and the deployments that answered."""
    host, _, port = address.rpartition(":")
    times, names = [], Counter[str]()
    with socket.create_connection((host, int(port))) as connection:
        for _ in range(requests):
            began = time.perf_counter_ns()
            connection.sendall(REQUEST)
            response = connection.recv(65536)
            times.append((time.perf_counter_ns() - began) / 1000)
            if not response.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"a request failed: {response[:200]!r}")
            _, found, rest = response.partition(b"azureml-model-deployment: ")
            names[rest.partition(b"\r\n")[0].decode() if found else "direct"] += 1
    return times, names


def main() -> None:
    """Print machine, versions, times and split."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    direct: list[float] = []
    routed: list[float] = []
    split, differences = Counter[str](), []
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        script = folder / "score.py"
        script.write_text("def init(): pass\ndef run(data): return len(data)\n")
        addresses = {name: start(stack, folder, name, "serve", str(script))[0] for name in SHARES}
        file = folder / "traffic.json"
        file.write_bytes(wire.encode(Traffic(deployments=addresses, traffic=SHARES)))
        router, process = start(stack, folder, "router", "endpoints", "route", str(file))
        for address in (*addresses.values(), router):
            measure(address, 200)
        began_s = sum(process.cpu_times()[:2])
        for _ in range(options.turns):
            own, _ = measure(addresses["blue"], options.requests)
            through, names = measure(router, options.requests)
            differences.append(statistics.median(through) - statistics.median(own))
            direct, routed, split = direct + own, routed + through, split + names
        cpu_us = (sum(process.cpu_times()[:2]) - began_s) * 1e6 / split.total()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("httptools", "uvloop"))
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} processors, load {load}; Python {platform.python_version()}, {versions}")
    rows = [[name, f"{statistics.median(each):.0f}", f"{statistics.quantiles(each, n=100)[98]:.0f}"] for name, each in
            (("direct", direct), ("router", routed))]  # fmt: skip
    print_table(["address", "p50 us", "p99 us"], rows)
    low, high = min(differences), max(differences)
    print(f"added p50: {statistics.median(differences):.0f} us (turns from {low:.0f} to {high:.0f})")
    print(f"processor time of the router: {cpu_us:.0f} us per request")
    print(
        f"split of {split.total()} requests: " + ", ".join(f"{name} {count / split.total():.2%}" for name, count in split.items())
    )


if __name__ == "__main__":
    main()
