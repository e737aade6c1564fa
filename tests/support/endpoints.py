"""Deploy scripts as endpoints of a real cloud, and send requests to them while something happens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import urllib3

from edgewright.contracts.endpoints import Deployment, DeployRequest, EndpointRecord
from edgewright.sdk import CloudClient


def script_of(client: CloudClient, folder: Path, script: str) -> dict[str, Any]:
    """Send a script; return the fields of a deployment that name it."""
    path = folder / "score.py"
    path.write_text(script)
    entry_script, files = client.push_script(path)
    return {"entry_script": entry_script, "files": files}


def deploy(client: CloudClient, name: str, folder: Path, script: str, **fields: Any) -> EndpointRecord:
    """Deploy a script, and wait until it is ready."""
    deployment = Deployment(**script_of(client, folder, script), **fields)
    client.deploy_endpoint(name, DeployRequest(deployment=deployment))
    return client.wait_for_endpoint(name)


def score(uri: str, key: str | None, body: bytes = b"{}") -> tuple[int, Any]:
    """Send one request on a connection of its own; return the status and the answer."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        response = pool.request("POST", uri, body=body, headers=headers)
        return response.status, json.loads(response.data)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes whose command line names a folder or a file in it."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if any(word.startswith(str(folder)) for word in each.info["cmdline"] or [])]


def wait_until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait until a condition of other processes holds."""
    ends_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_at, f"the condition must hold within {timeout_s:g} s"
        time.sleep(0.02)


@dataclass
class Load:
    """Requests that threads send one after the other, on connections that they keep open."""

    uri: str
    key: str
    answers: list[Any] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def send_until(self, ended: threading.Event) -> None:
        """Send requests until `ended`; every answer other than 200 is a failure."""
        with urllib3.PoolManager(retries=False, timeout=20) as pool:
            while not ended.is_set():
                try:
                    response = pool.request("POST", self.uri, body=b"{}", headers={"Authorization": f"Bearer {self.key}"})
                except urllib3.exceptions.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                time.sleep(0.002)  # a steady load, not a benchmark
                if response.status == 200:
                    self.answers.append(json.loads(response.data))
                else:
                    self.failures.append(f"{response.status} {response.data!r}")

    def wait_for(self, answer: Any, timeout_s: float = 20.0) -> None:
        """Wait until the last answers are `answer`; the load runs meanwhile."""
        ends_at = time.monotonic() + timeout_s
        while not self.answers or self.answers[-1] != answer:
            assert time.monotonic() < ends_at, f"no answer {answer} within {timeout_s:g} s, but {self.answers[-1:]}"
            time.sleep(0.01)

    def wait_for_more(self, count: int = 50) -> None:
        """Wait for `count` further answers."""
        target, ends_at = len(self.answers) + count, time.monotonic() + 20
        while len(self.answers) < target:
            assert time.monotonic() < ends_at, f"{target - len(self.answers)} answers are missing; failures: {self.failures[:3]}"
            time.sleep(0.01)


@contextmanager
def under_load(uri: str, key: str, threads: int = 3) -> Iterator[Load]:
    """Send requests from several threads while the block runs."""
    load, ended = Load(uri, key), threading.Event()
    senders = [threading.Thread(target=load.send_until, args=[ended]) for _ in range(threads)]
    for sender in senders:
        sender.start()
    try:
        load.wait_for_more(1)
        yield load
    finally:
        ended.set()
        for sender in senders:
            sender.join()
