"""The HTTPS API of a device: desired state, reports, telemetry (protocol.md P30, P31, P40, P41, P50, P51)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.db.database import Database
from cloud.fleet.desired import DesiredSpec
from cloud.fleet.twins import set_desired
from edgewright.contracts import signing, wire
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.oci import INDEX_TYPE, Descriptor
from edgewright.errors import ConflictError
from tests.support.running_cloud import EnrolledDevice, Http, RunningCloud

INDEX = Descriptor(mediaType=INDEX_TYPE, digest=wire.digest_of(b"index"), size=5)
SPEC = DesiredSpec(model="digits", version=1, index=INDEX)


@pytest.fixture(scope="module")
def database(cloud: RunningCloud) -> Iterator[Database]:
    """Open the cloud's database as another process."""
    database = Database.open(f"sqlite:///{cloud.state / 'cloud.db'}")
    yield database
    database.close()


def set_desired_state(cloud: RunningCloud, database: Database, device: str) -> DesiredState:
    key = signing.load_private_key(cloud.state / "cloud.key")
    with database.transaction() as connection:
        return set_desired(connection, key, device, SPEC)


def verified(device: EnrolledDevice, envelope: bytes) -> DesiredState:
    """Verify an envelope as the device does."""
    trusted = signing.TrustedKeys.from_pem([device.enrolment["cloud_key_pem"]])
    return wire.decode(trusted.verify(envelope, signing.DESIRED_TYPE), DesiredState, what="desired")


def report(device: str, sequence: int, reason: str, boot_id: str = "boot") -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    body = {"device": device, "desired_number": 0, "state": None, "reason": reason, "since": now}
    return {**body, "boot_id": boot_id, "sequence": sequence}


def batch(device: str, *sequences: int, queue_id: str = "q", name: str = "latency") -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    measurements = [{"sequence": each, "at": now, "name": name, "value": 2.5, "unit": "ms"} for each in sequences]
    return {"device": device, "queue_id": queue_id, "measurements": measurements}


def test_p31_without_a_desired_state_the_answer_is_204(cloud: RunningCloud, tmp_path: Path) -> None:
    assert cloud.enrol("idle", tmp_path).http.get("/v1/device/desired?have=0").status == 204


def test_p30_desired_state_is_an_envelope_that_the_cloud_key_verifies(
    cloud: RunningCloud, database: Database, tmp_path: Path
) -> None:
    device = cloud.enrol("verifying", tmp_path)
    desired = set_desired_state(cloud, database, "verifying")
    assert verified(device, device.http.get("/v1/device/desired?have=0").body) == desired
    assert (desired.device, desired.desired_number) == ("verifying", 1)


def test_p31_a_waiting_device_gets_a_desired_state_set_by_another_process(
    cloud: RunningCloud, database: Database, tmp_path: Path
) -> None:
    device = cloud.enrol("waiting", tmp_path)
    with ThreadPoolExecutor(1) as waiter:
        answer = waiter.submit(device.http.get, "/v1/device/desired?have=0&wait_s=30")
        desired = set_desired_state(cloud, database, "waiting")
        assert verified(device, answer.result(timeout=20).body) == desired


def test_p31_a_device_with_the_newest_desired_state_waits_and_gets_204(
    cloud: RunningCloud, database: Database, tmp_path: Path
) -> None:
    device = cloud.enrol("current", tmp_path)
    set_desired_state(cloud, database, "current")
    began = time.monotonic()
    assert device.http.get("/v1/device/desired?have=1&wait_s=0.3").status == 204
    assert time.monotonic() - began >= 0.3


def test_p31_a_device_gets_only_its_own_desired_state(cloud: RunningCloud, database: Database, tmp_path: Path) -> None:
    cloud.enrol("served", tmp_path)
    other = cloud.enrol("unserved", tmp_path)
    set_desired_state(cloud, database, "served")
    assert other.http.get("/v1/device/desired?have=0").status == 204


def test_p31_waiting_over_60_s_is_400(cloud: RunningCloud, tmp_path: Path) -> None:
    answer = cloud.enrol("endless", tmp_path).http.get("/v1/device/desired?wait_s=61")
    assert (answer.status, answer.error) == (400, "wait_s must be at most 60, not 61: repeat the request instead")


def test_the_desired_number_rises_with_every_change(cloud: RunningCloud, database: Database, tmp_path: Path) -> None:
    cloud.enrol("counting", tmp_path)
    assert [set_desired_state(cloud, database, "counting").desired_number for _ in range(3)] == [1, 2, 3]


def test_a_revoked_or_unknown_device_gets_no_desired_state(
    cloud: RunningCloud, operator: Http, database: Database, tmp_path: Path
) -> None:
    cloud.enrol("gone", tmp_path)
    operator.post("/v1/devices/gone/revoke")
    with pytest.raises(ConflictError, match="device gone must be enrolled to get a desired state, but it was revoked"):
        set_desired_state(cloud, database, "gone")
    with pytest.raises(ConflictError, match="device unknown must be enrolled"):
        set_desired_state(cloud, database, "unknown")


def test_revocation_ends_the_wait_of_a_device_with_403(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("dismissed", tmp_path)
    with ThreadPoolExecutor(1) as waiter:
        answer = waiter.submit(device.http.get, "/v1/device/desired?have=0&wait_s=50")
        operator.post("/v1/devices/dismissed/revoke")
        assert answer.result(timeout=20).status == 403


def test_p40_a_report_is_shown_and_the_device_is_online(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("talking", tmp_path)
    assert operator.get("/v1/devices/talking").json()["online"] is False
    assert device.http.post("/v1/device/reported", report("talking", 1, "fine")).status == 204
    record = operator.get("/v1/devices/talking").json()
    assert (record["reported"]["reason"], record["online"]) == ("fine", True)


def test_p41_a_late_report_changes_nothing_until_the_device_boots_again(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    device = cloud.enrol("stuttering", tmp_path)
    for body in (report("stuttering", 5, "new"), report("stuttering", 4, "old"), report("stuttering", 5, "again")):
        assert device.http.post("/v1/device/reported", body).status == 204
    assert operator.get("/v1/devices/stuttering").json()["reported"]["reason"] == "new"
    device.http.post("/v1/device/reported", report("stuttering", 1, "booted", boot_id="another"))
    assert operator.get("/v1/devices/stuttering").json()["reported"]["reason"] == "booted"


def test_a_device_cannot_report_for_another(cloud: RunningCloud, tmp_path: Path) -> None:
    answer = cloud.enrol("sender", tmp_path).http.post("/v1/device/reported", report("other", 1, "hello"))
    assert (answer.status, answer.error) == (403, "a message of device sender must name that device, but it names other")


def test_a_sequence_over_63_bits_is_400(cloud: RunningCloud, tmp_path: Path) -> None:
    device = cloud.enrol("overflowing", tmp_path)
    assert device.http.post("/v1/device/reported", report("overflowing", 2**63, "x")).status == 400
    assert device.http.post("/v1/device/telemetry", batch("overflowing", 2**63)).status == 400


def test_p50_p51_telemetry_is_acknowledged_and_stored_once(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("measuring", tmp_path)
    first = device.http.post("/v1/device/telemetry", batch("measuring", 1, 2))
    again = device.http.post("/v1/device/telemetry", batch("measuring", 1, 2, 3))
    no_job = {"queue_id": "q", "benchmark": None}
    assert (first.json(), again.json()) == ({**no_job, "sequence": 2}, {**no_job, "sequence": 3})
    assert [each["sequence"] for each in operator.get("/v1/telemetry?device=measuring").json()] == [1, 2, 3]
    assert operator.get("/v1/devices/measuring").json()["telemetry_count"] == 3


def test_p51_the_same_sequence_in_another_queue_is_another_measurement(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    device = cloud.enrol("restarted", tmp_path)
    device.http.post("/v1/device/telemetry", batch("restarted", 1, queue_id="old"))
    device.http.post("/v1/device/telemetry", batch("restarted", 1, queue_id="new"))
    assert {each["queue_id"] for each in operator.get("/v1/telemetry?device=restarted").json()} == {"old", "new"}


def test_a_large_batch_is_stored_completely(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("verbose", tmp_path)
    assert device.http.post("/v1/device/telemetry", batch("verbose", *range(1, 1801))).json()["sequence"] == 1800
    assert operator.get("/v1/devices/verbose").json()["telemetry_count"] == 1800
    newest = operator.get("/v1/telemetry?device=verbose&limit=2").json()
    assert [each["sequence"] for each in newest] == [1799, 1800]


@pytest.mark.parametrize(
    "sequences", [pytest.param((), id="empty"), pytest.param((2, 1), id="decreasing"), pytest.param((1, 1), id="twice")]
)
def test_a_batch_out_of_order_is_400_and_stores_nothing(
    cloud: RunningCloud, operator: Http, tmp_path: Path, sequences: tuple[int, ...]
) -> None:
    name = f"disorderly-{len(sequences)}{sum(sequences)}"
    device = cloud.enrol(name, tmp_path)
    assert device.http.post("/v1/device/telemetry", batch(name, *sequences)).status == 400
    assert operator.get(f"/v1/telemetry?device={name}").json() == []


def test_measurements_are_selected_by_name_and_time(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("searched", tmp_path)
    device.http.post("/v1/device/telemetry", batch("searched", 1, name="found"))
    device.http.post("/v1/device/telemetry", batch("searched", 2, name="other"))
    assert [each["sequence"] for each in operator.get("/v1/telemetry?name=found").json()] == [1]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert operator.get(f"/v1/telemetry?device=searched&since={tomorrow}").json() == []


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=many", "since=yesterday"])
def test_an_invalid_query_is_400(operator: Http, query: str) -> None:
    assert operator.get(f"/v1/telemetry?{query}").status == 400


def test_a_waiting_request_returns_at_the_next_change(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    number = operator.get("/v1/changes").json()["number"]
    with ThreadPoolExecutor(1) as waiter:
        answer = waiter.submit(cloud.operator().get, f"/v1/changes?after={number}&wait_s=30")
        cloud.enrol("noticed", tmp_path)
        assert answer.result(timeout=20).json()["number"] > number
