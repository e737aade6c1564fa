"""Measurements of a real cloud arrive at a Kusto cluster once, through Azure's own client, whatever fails between them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.contracts.messages import TelemetryQueue
from edgewright.errors import UnreachableError
from edgewright.kusto import copying
from edgewright.kusto.cluster import Cluster, UnavailableError
from edgewright.kusto.copying import Copy, Retries
from edgewright.kusto.credentials import connection_settings
from edgewright.kusto.position import Position, Target
from edgewright.kusto.table import Table
from edgewright.sdk import CloudClient
from tests.support.kusto_cluster import LOST_ANSWER, FakeCluster, Fault, kusto_cluster, service_error
from tests.support.running_cloud import EnrolledDevice, RunningCloud
from tests.support.trusting_cloud import publisher, trusting_cloud

__all__ = ["publisher", "trusting_cloud"]

THROTTLED = Fault("ingest", 429, "", {"Retry-After": "7"})
BROKEN = Fault("ingest", 503, json.dumps(service_error("Internal", "node restarts", permanent=False)))
PROXY = Fault("ingest", 502, "<html>bad gateway</html>")
LOST = Fault("ingest", 200, LOST_ANSWER)


def send(device: EnrolledDevice, *sequences: int, queue_id: str = "q1") -> None:
    rows = [
        {"sequence": each, "at": "2030-01-31T12:00:00Z", "name": "latency", "value": each / 8, "unit": "ms", "labels": {"w": "ä"}}
        for each in sequences
    ]
    answer = device.http.post("/v1/device/telemetry", {"device": device.device, "queue_id": queue_id, "measurements": rows})
    assert answer.status == 200, answer.body


def identities(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return sorted((row["device"], row["queue_id"], row["sequence"]) for row in rows)


@pytest.fixture(scope="module")
def devices(trusting_cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> tuple[EnrolledDevice, EnrolledDevice]:
    folder = tmp_path_factory.mktemp("devices")
    first, second = trusting_cloud.enrol("first", folder), trusting_cloud.enrol("second", folder)
    send(first, *range(1, 1801))
    send(first, *range(1, 4), queue_id="a-later-queue")
    send(second, 5, 6, 9)
    return first, second


STORED = [
    *(("first", "a-later-queue", each) for each in range(1, 4)),
    *(("first", "q1", each) for each in range(1, 1801)),
    *(("second", "q1", each) for each in (5, 6, 9)),
]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with kusto_cluster(token="secret") as started:
        yield started
        assert started.violations == []


@pytest.fixture
def waits() -> list[float]:
    return []


Start = Callable[[], Copy]


@pytest.fixture
def start(
    trusting_cloud: RunningCloud,
    devices: tuple[EnrolledDevice, EnrolledDevice],
    cluster: FakeCluster,
    waits: list[float],
    tmp_path: Path,
) -> Iterator[Start]:
    """Start a copy at the position stored in the folder of the test."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    settings = connection_settings(cluster.uri, token_file=token, managed_identity=None)
    table, path = Table("fleet"), tmp_path / "position.json"
    with CloudClient.connect(str(trusting_cloud.state)) as client, Cluster(cluster.uri, settings, table) as connected:

        def begin() -> Copy:
            target = Target(cloud=client.context.url, cluster=cluster.uri, database="fleet", table="Telemetry")
            retries = Retries(120, lambda _: None, sleep=waits.append, clock=lambda: sum(waits))
            copy = Copy(client, connected, Position.read(path, target), path, retries)
            retries.run(connected.create_table)
            return copy

        yield begin


def test_every_measurement_arrives_with_all_its_fields(start: Start, cluster: FakeCluster) -> None:
    assert start().run_once() == len(STORED)
    assert identities(cluster.rows["Telemetry"]) == STORED
    row = next(row for row in cluster.rows["Telemetry"] if row["device"] == "second" and row["sequence"] == 9)
    assert row | {"at": row["at"][:19]} == {
        "device": "second",
        "queue_id": "q1",
        "sequence": 9,
        "at": "2030-01-31T12:00:00",
        "name": "latency",
        "value": 1.125,
        "unit": "ms",
        "labels": {"w": "ä"},
    }


def test_a_copy_continues_at_its_position_and_sends_nothing_again(
    start: Start, cluster: FakeCluster, trusting_cloud: RunningCloud, tmp_path: Path
) -> None:
    start().run_once()
    copy = start()
    assert (copy.run_once(), copy.run_once()) == (0, 0)
    late = trusting_cloud.enrol("late", tmp_path)
    send(late, 1, 2)
    send(late, 1, queue_id="0-before-the-other")
    assert copy.run_once() == 3
    send(late, 3)
    assert copy.run_once() == 1
    expected = [("late", "0-before-the-other", 1), *(("late", "q1", each) for each in (1, 2, 3))]
    assert [each for each in identities(cluster.rows["Telemetry"]) if each[0] == "late"] == expected
    assert trusting_cloud.operator().post("/v1/devices/late/revoke").status == 200


def test_requests_have_at_most_the_size_that_streaming_ingestion_takes(
    start: Start, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "MAX_REQUEST_BYTES", 20_000)
    copy = start()
    copy.run_once()
    assert identities(cluster.view("TelemetryOnce"))[-3:] == STORED[-3:]
    assert len(cluster.rows["Telemetry"]) == copy.rows
    assert copy.requests == len(cluster.request_ids) == len(set(cluster.request_ids)) > 10


@pytest.mark.parametrize(
    ("faults", "waited"),
    [
        pytest.param([THROTTLED], [7.0], id="throttled, with the wait that it asks for"),
        pytest.param([BROKEN, PROXY, BROKEN], [1.0, 2.0, 4.0], id="broken"),
        pytest.param([LOST], [1.0], id="answer lost after the rows were stored"),
        pytest.param([Fault("mgmt", 503)], [1.0], id="creation of the table"),
    ],
)
def test_a_failure_is_repeated_and_each_measurement_counts_once(
    start: Start, cluster: FakeCluster, waits: list[float], faults: list[Fault], waited: list[float]
) -> None:
    cluster.faults += faults
    start().run_once()
    assert waits == waited
    seen = [each for each in identities(cluster.view("TelemetryOnce")) if each[0] != "late"]
    assert seen == STORED
    ids = len(set(cluster.request_ids))
    assert ids == 1, "a repetition has the id of the first attempt"


def test_a_cluster_that_stays_away_is_given_up_and_a_later_run_sends_the_rest(
    start: Start, cluster: FakeCluster, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "MAX_REQUEST_BYTES", 100_000)
    copy = start()
    sent_before = copy.cluster.ingest

    def fail_after_one(lines: list[bytes], request_id: str) -> None:
        if cluster.request_ids:
            raise UnavailableError("away")
        sent_before(lines, request_id)

    monkeypatch.setattr(copy.cluster, "ingest", fail_after_one)
    with pytest.raises(UnreachableError, match="^away$"):
        copy.run_once()
    assert sum(waits) <= 120
    assert 0 < len(cluster.rows["Telemetry"]) < len(STORED)
    monkeypatch.undo()
    start().run_once()
    rows = [each for each in identities(cluster.rows["Telemetry"]) if each[0] != "late"]
    assert rows == STORED, "nothing twice, nothing lost"


def test_the_command_follows_until_it_is_interrupted_and_survives_kill(
    trusting_cloud: RunningCloud, devices: tuple[EnrolledDevice, EnrolledDevice], tmp_path: Path
) -> None:
    words = ["telemetry", "ingest", "--database", "fleet", "--cloud", trusting_cloud.state, "--follow", "--every", "50ms"]
    with kusto_cluster() as cluster:
        command = [sys.executable, "-c", "from edgewright.cli import main; main()", *map(str, words), "--to", cluster.uri]
        sent: list[int] = []
        stop = threading.Event()

        def produce() -> None:
            while not stop.is_set():
                sent.append(1000 + len(sent))
                send(devices[1], sent[-1], queue_id="live")
                time.sleep(0.01)

        producer = threading.Thread(target=produce)
        producer.start()
        for seen in (1, 30):  # the first run is killed in the middle of its work, the second one continues
            with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                wait_for(lambda seen=seen: len(live(cluster)) >= seen)  # type: ignore[misc]
                process.send_signal(signal.SIGKILL)
        stop.set()
        producer.join(60)
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            wait_for(lambda: len(live(cluster)) >= len(sent))
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        assert sorted(row["sequence"] for row in live(cluster)) == sent
        assert cluster.violations == []


def live(cluster: FakeCluster) -> list[dict[str, Any]]:
    return [row for row in cluster.view("TelemetryOnce") if row["queue_id"] == "live"] if cluster.views else []


def wait_for(holds: Callable[[], bool], limit_s: float = 120) -> None:
    ends_at = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.02)


def test_the_queues_of_a_device_are_listed_with_their_newest_number(
    trusting_cloud: RunningCloud, devices: tuple[EnrolledDevice, EnrolledDevice]
) -> None:
    with CloudClient.connect(str(trusting_cloud.state)) as client:
        assert [(each.queue_id, each.last_sequence) for each in client.telemetry_queues("first")] == [
            ("a-later-queue", 3),
            ("q1", 1800),
        ]
        assert client.telemetry_queues("nobody") == ()
        queue = TelemetryQueue(device="first", queue_id="q1", last_sequence=1800)
        assert [each.sequence for each in client.queued_telemetry(queue, from_sequence=1799)] == [1799, 1800]
    operator = trusting_cloud.operator()
    assert operator.get("/v1/telemetry?queue_id=q1").error == "queue_id must come with the device of that queue"
    assert operator.get("/v1/telemetry/queues").status == 400
