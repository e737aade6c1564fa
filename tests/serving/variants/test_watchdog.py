"""A run of the model that does not end: 504 for its request, 503 for those that wait, and the process exits."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.variants.watchdog import HUNG_EXIT
from tests.support.serving_fixtures import Client

HANGING = """
import sys, time
from pathlib import Path
import numpy as np
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.variants.app import ScoringApp
from edgewright.serving.http.server import listen, run_server

class Session:
    def run(self, inputs):
        if inputs["x"].max() > 1000:
            time.sleep(60)
        return {"scores": np.zeros((len(inputs["x"]), 3), np.float32)}
    def describe(self):
        return {"backend": "hanging", "version": "1", "threads": "1"}
    def close(self):
        pass

socket = listen()
print(socket.getsockname()[1], flush=True)
config = VariantDirectory.open(Path(sys.argv[1])).config
run_server(ScoringApp(Session(), config, model="m", version=1, inference_timeout_s=1.0), socket=socket)
"""
GOOD, POISON = {"data": [[0] * 6]}, {"data": [[0, 1001, 0, 0, 0, 0]]}


@pytest.fixture
def hanging(variant: VariantDirectory) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    command = [sys.executable, "-c", HANGING, str(variant.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        client = Client(int(process.stdout.readline()))
        yield process, client
        client.close()
        process.kill()


@pytest.mark.parametrize("good_before", [pytest.param(1, id="in the worker thread"), pytest.param(60, id="in the event loop")])
def test_a_run_that_does_not_end_is_a_504_and_ends_the_process(
    hanging: tuple[subprocess.Popen[str], Client], good_before: int
) -> None:
    process, client = hanging
    assert {client.post("/score", GOOD).status for _ in range(good_before)} == {200}
    began = time.monotonic()
    reply = client.post("/score", POISON)
    assert reply.status == 504
    assert reply.json["error"].startswith("the model did not answer within 1 s; it is restarted")
    assert 1 <= time.monotonic() - began < 10
    assert process.wait(10) == HUNG_EXIT
    assert process.stderr is not None
    assert process.stderr.read().endswith("an inference must end within 1 s, but it did not\n")


def test_requests_that_wait_for_the_hung_run_are_told_to_try_again(hanging: tuple[subprocess.Popen[str], Client]) -> None:
    _, client = hanging
    with ThreadPoolExecutor(2) as pool:
        poison = pool.submit(client.post, "/score", POISON)
        time.sleep(0.4)
        waiting = pool.submit(client.post, "/score", GOOD)
        assert poison.result(20).status == 504
        assert (waiting.result(20).status, waiting.result().headers["retry-after"]) == (503, "1")
