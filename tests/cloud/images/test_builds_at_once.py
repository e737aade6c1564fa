"""Several builds at once: a bounded number runs, and what two of them need is made once (protocol.md P104)."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud.images.engine import BUILDS_AT_ONCE
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.environments.images import BuildState, ImageRecord, ImageRequest
from edgewright.errors import OperationError
from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud
from tests.support.wheels import wheel

TIMEOUT_S = 240


class SlowIndex:
    """A package index of files that answers only when the test lets it."""

    def __init__(self, folder: Path) -> None:
        self.requests: Counter[str] = Counter()
        self.asked = threading.Semaphore(0)
        """Released once per first request for the page of a package."""
        self.opened = threading.Event()
        handler = partial(type("Handler", (_Handler,), {"index": self}), directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class _Handler(SimpleHTTPRequestHandler):
    index: SlowIndex

    def do_GET(self) -> None:
        self.index.requests[self.path] += 1
        if self.path.endswith("/") and self.index.requests[self.path] == 1:
            self.index.asked.release()
        assert self.index.opened.wait(TIMEOUT_S)
        super().do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:
        return


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SlowIndex]:
    for number in range(BUILDS_AT_ONCE + 1):
        wheel(tmp_path, f"slow{number}", "1.0")
    slow = SlowIndex(tmp_path)
    yield slow
    slow.opened.set()
    slow.server.shutdown()
    slow.server.server_close()


@pytest.fixture(scope="module")
def client(foreign_cloud: RunningCloud, foreign_registry: str) -> Iterator[CloudClient]:
    """A client of a cloud that has the layers below the packages already."""
    with CloudClient.connect(str(foreign_cloud.state)) as client:
        client.create_environment(Environment(name="first", base_image=f"{foreign_registry}/base:1"))
        client.wait_for_image(build(client, "first", "first"))
        yield client


def build(client: CloudClient, name: str, environment: str) -> ImageRecord:
    return client.build_image(ImageRequest(name=f"{name}-image", environment=environment, platforms=("linux/arm64",)))


def describe(client: CloudClient, name: str, index: SlowIndex, registry: str) -> str:
    base = f"{registry}/base:1"
    client.create_environment(Environment(name=name, base_image=base, pip_packages=(name,), pip_index_url=index.url))
    return name


def test_p104_a_bounded_number_of_builds_runs_at_once(client: CloudClient, index: SlowIndex, foreign_registry: str) -> None:
    names = [describe(client, f"slow{number}", index, foreign_registry) for number in range(BUILDS_AT_ONCE + 1)]
    records = [build(client, name, name) for name in names]
    for _ in range(BUILDS_AT_ONCE):
        assert index.asked.acquire(timeout=TIMEOUT_S)
    states = [client.image(record.name).state for record in records]
    assert states == [BuildState.RUNNING] * BUILDS_AT_ONCE + [BuildState.QUEUED]
    index.opened.set()
    assert {client.wait_for_image(record).state for record in records} == {BuildState.SUCCEEDED}


def test_p104_a_layer_that_two_builds_need_is_made_once(client: CloudClient, index: SlowIndex, foreign_registry: str) -> None:
    environment = describe(client, "slow1", index, foreign_registry)
    twins = [build(client, name, environment) for name in ("left", "right")]
    assert index.asked.acquire(timeout=TIMEOUT_S)
    waits = "another build makes the same layer part=packages: this one waits for it"
    seen = threading.Event()

    def follow(record: ImageRecord) -> None:
        text = ""
        for piece in client.follow_build(record):
            text += piece
            if waits in text:
                seen.set()

    followers = [threading.Thread(target=follow, args=(record,), daemon=True) for record in twins]
    for follower in followers:
        follower.start()
    assert seen.wait(TIMEOUT_S)
    index.opened.set()
    built = [client.wait_for_image(record) for record in twins]
    assert built[0].layers == built[1].layers
    assert index.requests["/slow1/slow1-1.0-py3-none-any.whl"] == 1
    for follower in followers:
        follower.join(TIMEOUT_S)


def test_p104_a_killed_build_fails_in_one_line_and_registers_nothing(
    client: CloudClient, index: SlowIndex, foreign_cloud: RunningCloud, foreign_registry: str
) -> None:
    record = build(client, "killed", describe(client, "slow0", index, foreign_registry))
    assert index.asked.acquire(timeout=TIMEOUT_S)
    workers = psutil.Process(foreign_cloud.process.pid).children()
    [worker] = [each for each in workers if "cloud.images.build.worker" in " ".join(each.cmdline())]
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(OperationError, match="killed-image:1 was not built: the build .*SIGKILL"):
        client.wait_for_image(record)
    assert "\n" not in client.image("killed-image").reason
    assert foreign_cloud.operator().get("/v2/killed-image/tags/list").status == 404
    assert not list((foreign_cloud.state / "images" / "work").iterdir())
