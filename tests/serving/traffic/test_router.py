"""The router in front of two real services: shares, calls by name, copies, and a switch under load."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.serving.traffic.rules import Traffic

LONG_S = 120.0
SCRIPT = """
from pathlib import Path
from urllib.parse import urlsplit
def init(): pass
def run(data):
    with Path({log!r}).open("a") as log:
        log.write("x")
    return {name!r}
"""


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a command that writes a ready file; yield HOST:PORT and the process."""
    ready = folder / f"ready-{time.monotonic_ns()}.json"
    command = [sys.executable, "-m", "edgewright", *arguments, "--port", "0", "--ready-file", str(ready)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        ends_at = time.monotonic() + LONG_S
        while not ready.exists():
            assert process.poll() is None, "the process has ended"
            assert time.monotonic() < ends_at, "the process is not ready"
            time.sleep(0.05)
        yield urlsplit(json.loads(ready.read_bytes())["url"]).netloc, process
    finally:
        process.terminate()
        process.wait(LONG_S)


class Service:
    """A router with the deployments blue and green."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.file = folder, folder / "traffic.json"
        self.addresses, self.processes = {}, {}
        for name in ("blue", "green"):
            script = folder / f"{name}.py"
            script.write_text(SCRIPT.format(log=str(folder / f"{name}.log"), name=name))
            self.addresses[name], self.processes[name] = stack.enter_context(running(folder, "serve", str(script)))
        self.set({"blue": 100})
        address, _ = stack.enter_context(running(folder, "endpoints", "route", str(self.file)))
        self.connection = http.client.HTTPConnection(address, timeout=LONG_S)
        stack.callback(self.connection.close)

    def set(self, traffic: dict[str, int], mirror: dict[str, int] | None = None) -> None:
        write_atomically(self.file, wire.encode(Traffic(deployments=self.addresses, traffic=traffic, mirror=mirror or {})))

    def score(self, path: str = "/score", **headers: str) -> tuple[int, str | None, object]:
        fields = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.connection.request("POST", path, b'{"data": [1]}', fields)
        response = self.connection.getresponse()
        return response.status, response.getheader("azureml-model-deployment"), json.loads(response.read())

    def calls(self, name: str) -> int:
        log = self.folder / f"{name}.log"
        return log.stat().st_size if log.exists() else 0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a router in front of two services."""
    with ExitStack() as stack:
        yield Service(tmp_path_factory.mktemp("traffic"), stack)


def test_requests_are_split_by_the_percentages(service: Service) -> None:
    service.set({"blue": 70, "green": 30})
    answers = [service.score() for _ in range(500)]
    assert Counter(answers) == {(200, "blue", "blue"): 350, (200, "green", "green"): 150}


def test_a_deployment_without_traffic_is_called_by_its_name(service: Service) -> None:
    service.set({"blue": 100})
    assert service.score(azureml_model_deployment="green") == (200, "green", "green")
    assert service.score("/deployments/green/score") == (200, "green", "green")
    assert service.score() == (200, "blue", "blue")


def test_an_unknown_deployment_is_not_found(service: Service) -> None:
    status, _, answer = service.score(azureml_model_deployment="gren")
    reason = "no deployment is called 'gren'; deployments of this endpoint: blue, green"
    assert (status, answer) == (404, {"error": reason})


def test_copies_reach_the_mirror_and_the_client_gets_the_live_answer(service: Service) -> None:
    before = service.calls("green")
    service.set({"blue": 100}, {"green": 20})
    assert Counter(service.score() for _ in range(100)) == {(200, "blue", "blue"): 100}
    ends_at = time.monotonic() + LONG_S
    while service.calls("green") < before + 20 and time.monotonic() < ends_at:
        time.sleep(0.02)
    assert service.calls("green") == before + 20


def test_bodies_of_every_length_arrive_whole(service: Service) -> None:
    service.set({"blue": 50, "green": 50})
    for body in (b'{"data": [1]}', b'{"data": "' + b"x" * 3_000_000 + b'"}'):
        for chunked in (False, True):
            sent = iter([body[:5], body[5:]]) if chunked else body
            service.connection.request("POST", "/score", sent, {"Content-Type": "application/json"}, encode_chunked=chunked)
            response = service.connection.getresponse()
            assert (response.status, json.loads(response.read())) in [(200, "blue"), (200, "green")]


def test_no_request_fails_while_all_move_to_green_and_blue_ends(service: Service) -> None:
    """The last test of this module: it ends blue."""
    service.set({"blue": 100})
    answers: list[tuple[int, str | None, object]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answers.append(service.score())

    thread = threading.Thread(target=load)
    thread.start()
    wait_for(lambda: len(answers) > 50)
    service.set({"green": 100})
    wait_for(lambda: answers[-1][2] == "green")
    service.processes["blue"].send_signal(signal.SIGTERM)
    service.processes["blue"].wait(LONG_S)
    ended_at = len(answers)
    wait_for(lambda: len(answers) > ended_at + 50)
    stop.set()
    thread.join(LONG_S)
    assert {status for status, _, _ in answers} == {200}
    assert {answer for _, _, answer in answers[ended_at:]} == {"green"}


def wait_for(condition: object) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    ends_at = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.01)
