"""Benchmarks that devices share (protocol.md P54 to P56): one device measures, forged and foreign results change nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.db.database import Database
from cloud.fleet import benchmarks
from cloud.fleet.desired import DesiredSpec
from cloud.fleet.twins import set_desired
from edgewright.contracts import signing, wire
from edgewright.contracts.connection.benchmarks import (
    BENCHMARK_TYPE,
    SHARED_BENCHMARK_TYPE,
    BenchmarkAnswer,
    BenchmarkClaim,
    BenchmarkResult,
)
from edgewright.contracts.oci import INDEX_TYPE, Descriptor
from tests.support.running_cloud import Answer, EnrolledDevice, RunningCloud

INDEX = Descriptor(mediaType=INDEX_TYPE, digest=wire.digest_of(b"index"), size=5)
MACHINE = "0a1b2c3d x86_64 Example x8"


def desire(cloud: RunningCloud, device: str, model: str) -> None:
    database = Database.open(f"sqlite:///{cloud.state / 'cloud.db'}")
    key = signing.load_private_key(cloud.state / "cloud.key")
    with database.transaction() as connection:
        set_desired(connection, key, device, DesiredSpec(model=model, version=1, index=INDEX))
    database.close()


def enrol(cloud: RunningCloud, folder: Path, device: str, model: str) -> EnrolledDevice:
    enrolled = cloud.enrol(device, folder)
    desire(cloud, device, model)
    return enrolled


def claim(device: EnrolledDevice, model: str, **changes: Any) -> dict[str, Any]:
    body = {"model": model, "basis": wire.digest_of(b"basis"), "fingerprint": MACHINE, **changes}
    answer = device.http.post("/v1/device/benchmarks/claim", body)
    assert answer.status == 200, answer.body
    return dict(answer.json())


def result(device: str, model: str, /, **changes: Any) -> dict[str, Any]:
    return {
        "device": device,
        "model": model,
        "version": 1,
        "basis": wire.digest_of(b"basis"),
        "fingerprint": MACHINE,
        "measured_at": datetime.now(UTC).isoformat(),
        "fastest": "int8",
        "median_ms": {"int8": 1.5, "fp32": 4.0},
        "failures": {},
        **changes,
    }


def send(device: EnrolledDevice, body: dict[str, Any], key_file: Path | None = None, kind: str = BENCHMARK_TYPE) -> Answer:
    key = signing.load_private_key(key_file or device.certificate[1])
    return device.http.post("/v1/device/benchmarks", signing.sign(wire.encode(body), kind, key))


def stored(cloud: RunningCloud, model: str) -> Any:
    return cloud.operator().get(f"/v1/benchmarks?model={model}").json()


def test_one_device_measures_while_another_waits_and_gets_the_result_signed_by_the_cloud(
    cloud: RunningCloud, tmp_path: Path
) -> None:
    first, second = enrol(cloud, tmp_path, "measurer", "shared"), enrol(cloud, tmp_path, "waiter", "shared")
    assert claim(first, "shared") == {"measure": True, "envelope": None}
    assert claim(first, "shared")["measure"] is True, "a worker that was killed asks again"
    assert claim(second, "shared") == {"measure": False, "envelope": None}
    assert send(first, result("measurer", "shared")).status == 204
    envelope = wire.encode(claim(second, "shared")["envelope"])
    payload = signing.TrustedKeys.from_pem([second.enrolment["cloud_key_pem"]]).verify(envelope, SHARED_BENCHMARK_TYPE)
    assert wire.decode(payload, BenchmarkResult, what="result").median_ms == {"int8": 1.5, "fp32": 4.0}
    assert [(each["device"], each["fastest"]) for each in stored(cloud, "shared")] == [("measurer", "int8")]


def test_a_released_claim_goes_to_the_next_device(cloud: RunningCloud, tmp_path: Path) -> None:
    first, second = enrol(cloud, tmp_path, "giver", "released"), enrol(cloud, tmp_path, "taker", "released")
    assert claim(first, "released")["measure"] is True
    claim(second, "released", release=True)
    assert claim(second, "released")["measure"] is False, "only the holder gives a claim back"
    claim(first, "released", release=True)
    assert claim(second, "released")["measure"] is True


def test_a_claim_expires_because_the_device_may_be_switched_off(cloud: RunningCloud, tmp_path: Path) -> None:
    first, _ = enrol(cloud, tmp_path, "dark", "expired"), enrol(cloud, tmp_path, "bright", "expired")
    assert claim(first, "expired")["measure"] is True
    database = Database.open(f"sqlite:///{cloud.state / 'cloud.db'}")
    request = BenchmarkClaim(model="expired", basis=wire.digest_of(b"basis"), fingerprint=MACHINE)
    with database.transaction() as connection:
        now = datetime.now(UTC)
        early = benchmarks.claim(connection, "bright", request, now + benchmarks.CLAIM - timedelta(minutes=1))
        late = benchmarks.claim(connection, "bright", request, now + benchmarks.CLAIM + timedelta(minutes=1))
    database.close()
    assert (early, late) == (BenchmarkAnswer(), BenchmarkAnswer(measure=True))


def test_a_second_result_does_not_replace_the_first(cloud: RunningCloud, tmp_path: Path) -> None:
    first = enrol(cloud, tmp_path, "once", "kept")
    claim(first, "kept")
    assert send(first, result("once", "kept")).status == 204
    again = send(first, result("once", "kept", fastest="fp32"))
    assert (again.status, stored(cloud, "kept")[0]["fastest"]) == (409, "int8")


@pytest.mark.parametrize(
    ("changes", "kind", "status", "message"),
    [
        pytest.param({"device": "else"}, BENCHMARK_TYPE, 403, "must name that device, but it names else", id="other device"),
        pytest.param({"model": "foreign"}, BENCHMARK_TYPE, 403, "must name foreign before", id="model of others"),
        pytest.param({"basis": wire.digest_of(b"no")}, BENCHMARK_TYPE, 409, "must claim the benchmark", id="unclaimed basis"),
        pytest.param({"median_ms": {"int8": -1.0}}, BENCHMARK_TYPE, 400, "must be over 0", id="negative time"),
        pytest.param({"fastest": "fp16"}, BENCHMARK_TYPE, 400, "'fp16' has none", id="fastest without a time"),
        pytest.param({}, SHARED_BENCHMARK_TYPE, 403, "must be over", id="type of the cloud's envelope"),
    ],
)
def test_a_foreign_or_impossible_result_changes_nothing(
    cloud: RunningCloud, tmp_path: Path, changes: dict[str, Any], kind: str, status: int, message: str
) -> None:
    name = f"bad-{wire.digest_of(wire.encode([changes, kind]))[7:15]}"
    device = enrol(cloud, tmp_path, name, name)
    claim(device, name)
    answer = send(device, result(name, name, **changes), kind=kind)
    assert (answer.status, message in answer.error) == (status, True), answer.body
    assert stored(cloud, name) == []


def test_a_result_signed_by_another_device_or_without_a_claim_changes_nothing(cloud: RunningCloud, tmp_path: Path) -> None:
    holder, other = enrol(cloud, tmp_path, "holder", "forged"), enrol(cloud, tmp_path, "forger", "forged")
    claim(holder, "forged")
    forged = send(holder, result("holder", "forged"), key_file=other.certificate[1])
    assert (forged.status, "must be signed by the key of the device's certificate" in forged.error) == (403, True)
    assert send(other, result("forger", "forged")).status == 409
    assert stored(cloud, "forged") == []


def test_an_operator_deletes_results_so_that_the_next_device_measures(cloud: RunningCloud, tmp_path: Path) -> None:
    device = enrol(cloud, tmp_path, "old", "forgotten")
    claim(device, "forgotten")
    assert send(device, result("old", "forgotten")).status == 204
    assert cloud.operator().send("DELETE", "/v1/benchmarks/forgotten").json()[0]["device"] == "old"
    missing = cloud.operator().send("DELETE", "/v1/benchmarks/forgotten")
    assert (missing.status, "no device has measured 'forgotten'" in missing.error) == (404, True)
    assert claim(device, "forgotten")["measure"] is True


def test_of_devices_that_claim_at_once_one_measures(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "_permission", lambda *_: None)
    database = Database.open(database_url)
    request = BenchmarkClaim(model="raced", basis=wire.digest_of(b"basis"), fingerprint=MACHINE)

    def claim_it(number: int) -> bool:
        with database.transaction() as connection:
            return benchmarks.claim(connection, f"cam-{number}", request, datetime.now(UTC)).measure

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(claim_it, range(24)))
    database.close()
    assert answers.count(True) == 1
