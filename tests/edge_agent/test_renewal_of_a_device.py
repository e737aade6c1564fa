"""Renewal of the certificate at the real cloud (P14 to P16), with kills and lost connections at every step."""

from __future__ import annotations

import asyncio
import logging
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from sqlalchemy import insert

from cloud.db.database import Database
from cloud.db.schema import certificates
from cloud.state.certificates import Authority, certificate_pem, new_key, serial_of
from edge_agent.identity.certificate import ALREADY_RENEWED, renew
from edge_agent.identity.device_key import generate_key, read_key, store_certificate
from edge_agent.identity.enrolment import enrol
from edge_agent.identity.identity import Identity, Validity
from edge_agent.link.connection import Connection
from edge_agent.link.https_client import HttpsRequest
from edge_agent.renewal import Renewer
from edge_agent.settings import Settings
from edge_agent.state_directory import StateDirectory
from edge_agent.storage.failpoints import RENEWAL_FAILPOINTS, VARIABLE
from edge_agent.workers.requests import RenewRequest
from edge_agent.workers.worker import Failure, WorkerResult, run_worker
from edgewright.contracts import wire
from edgewright.errors import DeniedError, MessageError, OperationError, UnreachableError
from tests.support.device_packages import Built
from tests.support.real_fleet import NAME, Fleet, fleet, runs
from tests.support.running_cloud import RunningCloud, running


@dataclass
class EnrolledDevice:
    """An enrolled device without an agent, and its cloud."""

    cloud: RunningCloud
    state: Path

    @property
    def identity(self) -> Identity:
        return Identity.load(self.state)

    def is_accepted(self) -> bool:
        """Return True if the cloud accepts the device's certificate."""
        identity = self.identity
        path = "/v1/device/desired?have=0&wait_s=0"
        return HttpsRequest(identity.url, identity.tls_context()).send("GET", path).status == 204

    def run_worker(self, credentials: str = "a") -> WorkerResult:
        """Renew in a worker process."""
        request = RenewRequest(state_directory=str(self.state), credentials=credentials)
        return asyncio.run(run_worker("edge_agent.identity.certificate", request, timeout_s=60))

    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.identity.certificate.read_bytes()).serial_number

    def expire(self, days_ago: float) -> None:
        """Replace the current certificate by an expired one that the cloud has issued."""
        authority = authority_of(self.cloud)
        credentials = self.identity.credentials
        key = read_key(credentials)
        assert key is not None
        expired = authority.issue_client(
            self.identity.device, key.public_key(), datetime.now(UTC) - timedelta(days=90 + days_ago)
        )
        (credentials / "device.crt").write_bytes(certificate_pem(expired))
        database = Database.open(f"sqlite:///{self.cloud.state / 'cloud.db'}")
        row = {"serial": serial_of(expired), "device": self.identity.device, "expires_at": expired.not_valid_after_utc}
        with database.transaction() as connection:
            connection.execute(insert(certificates).values(row))
        database.close()


def authority_of(cloud: RunningCloud) -> Authority:
    return Authority.from_pem((cloud.state / "ca.pem").read_bytes(), (cloud.state / "ca.key").read_bytes())


@pytest.fixture(scope="module")
def real_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    with running(tmp_path_factory.mktemp("cloud") / "state", "--no-broker") as started:
        yield started


@pytest.fixture
def device(real_cloud: RunningCloud, tmp_path: Path) -> EnrolledDevice:
    token = real_cloud.operator().post("/v1/tokens", {}).json()["token"]
    enrol(tmp_path / "device", token_text=token, device=f"cam-{secrets.token_hex(4)}", profile="generic-x86-64")
    return EnrolledDevice(real_cloud, tmp_path / "device")


def test_p16_a_renewal_creates_a_new_key_in_the_other_credential_set_and_keeps_the_old_set(device: EnrolledDevice) -> None:
    old, old_key, old_serial = device.identity.credentials, device.identity.key.read_bytes(), device.serial()
    assert renew(device.identity).startswith("the certificate is valid until ")
    assert (old.name, device.identity.credentials.name) == ("a", "b")
    assert device.identity.key.read_bytes() != old_key == (old / "device.key").read_bytes()
    assert stat.S_IMODE(device.identity.key.stat().st_mode) == 0o600
    assert device.serial() != old_serial
    assert device.is_accepted()
    validity = device.identity.validity()
    assert validity is not None
    assert abs(validity.obtained_at - datetime.now(UTC)) < timedelta(minutes=1)
    renew(device.identity)
    assert device.identity.credentials.name == "a"
    assert device.is_accepted()


def test_a_request_for_a_credential_set_that_is_no_longer_in_use_renews_nothing(device: EnrolledDevice) -> None:
    renew(device.identity)
    serial = device.serial()
    assert device.run_worker("a").reason == ALREADY_RENEWED
    assert device.serial() == serial


@pytest.mark.parametrize("failpoint", RENEWAL_FAILPOINTS)
def test_p16_after_a_kill_between_any_two_steps_the_device_is_accepted_and_the_next_attempt_renews(
    failpoint: str, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, failpoint)
    result = device.run_worker()
    assert result.failure is Failure.CRASHED
    assert "SIGKILL" in result.reason
    assert device.identity.credentials.name == ("b" if failpoint == "certificate.after_rename" else "a")
    assert device.is_accepted()
    monkeypatch.delenv(VARIABLE)
    assert device.run_worker().failure is None
    assert device.identity.credentials.name == "b"
    assert device.is_accepted()
    assert {path.name for path in device.identity.folder.iterdir()} == {
        "a", "b", "ca.pem", "current", "enrolment.json", "renewal.lock",
    }  # fmt: skip


def test_p15_a_certificate_that_expired_long_ago_is_renewed_automatically(device: EnrolledDevice) -> None:
    device.expire(days_ago=60)
    with pytest.raises(UnreachableError):
        device.is_accepted()
    assert device.run_worker().failure is None
    assert device.is_accepted()


def test_p15_a_revoked_device_is_refused_with_a_valid_and_with_an_expired_certificate(device: EnrolledDevice) -> None:
    device.cloud.operator().post(f"/v1/devices/{device.identity.device}/revoke")
    with pytest.raises(DeniedError, match=r"was revoked at .*: contact the operator"):
        renew(device.identity)
    device.expire(days_ago=60)
    with pytest.raises(DeniedError, match=r"was revoked: contact the operator"):
        renew(device.identity)
    assert device.identity.credentials.name == "a"


def test_a_damaged_key_is_reported_and_nothing_is_switched(device: EnrolledDevice) -> None:
    device.identity.key.write_bytes(b"")
    with pytest.raises(OperationError, match="must hold the device's certificate and key, but"):
        renew(device.identity)
    assert device.identity.credentials.name == "a"


def test_an_unreachable_cloud_is_not_a_refusal(device: EnrolledDevice) -> None:
    record = device.identity.folder / "enrolment.json"
    record.write_text(record.read_text().replace(device.cloud.url, "https://127.0.0.1:1"))
    result = device.run_worker()
    assert result.failure is Failure.OFFLINE
    assert device.identity.credentials.name == "a"


@pytest.mark.parametrize("difference", ["key", "name", "authority"])
def test_a_certificate_with_another_key_name_or_authority_is_not_stored(
    device: EnrolledDevice, difference: str, tmp_path: Path
) -> None:
    now, identity = datetime.now(UTC), device.identity
    key = generate_key(tmp_path / "credentials")
    authority = Authority.create(now) if difference == "authority" else authority_of(device.cloud)
    issued = authority.issue_client(
        "someone" if difference == "name" else identity.device, (new_key() if difference == "key" else key).public_key(), now
    )
    with pytest.raises(MessageError):
        store_certificate(
            tmp_path / "credentials",
            certificate_pem(issued).decode(),
            key=key,
            device=identity.device,
            authority=identity.authority,
        )
    assert not (tmp_path / "credentials" / "device.crt").exists()


def test_a_lost_link_is_restored_from_the_credential_sets(device: EnrolledDevice) -> None:
    renew(device.identity)
    (device.identity.folder / "current").unlink()
    assert device.identity.credentials.name == "b"
    assert device.is_accepted()
    renew(device.identity)
    assert device.identity.credentials.name == "a"


LIFETIME_S = 14.0


def score_until(here: Fleet, v1: Built, ends_at: datetime) -> int:
    """Score continuously and return the number of requests; a failed request fails the test."""
    count = 0
    while datetime.now(UTC) < ends_at:
        assert np.allclose(here.device.score(v1.samples), v1.answers, rtol=1e-4, atol=1e-2)
        count += 1
        time.sleep(0.02)
    return count


def expiry(here: Fleet) -> datetime:
    validity = Identity.load(here.device.state).validity()
    assert validity is not None
    return validity.not_after


def test_p16_a_device_scores_during_renewals_and_reconnects_after_its_certificate_expired(tmp_path: Path, v1: Built) -> None:
    with fleet(tmp_path, "--no-broker", life_s=LIFETIME_S) as here:
        here.publish(v1, 1)
        here.set_desired(v1, 1)
        here.device.start("--transport", "auto")
        here.record_when(runs(1))
        first_expiry, runners = expiry(here), {runner.pid for runner in here.device.runners()}
        here.device.score_with_retries(v1.samples)
        assert score_until(here, v1, first_expiry + timedelta(seconds=2)) > 20
        assert {runner.pid for runner in here.device.runners()} == runners
        assert expiry(here) > first_expiry
        report = here.record_when(lambda record: record["online"])["reported"]
        here.record_when(lambda record: record["reported"]["sequence"] > report["sequence"])
        assert f"renewed device={NAME} method=tls" in here.cloud.log.read_text()
        assert "reconnecting transport=https reason='the certificate was renewed'" in here.device.log()
        assert "renew" in [past["event"] for past in here.device.explain()["history"]]

        here.device.stop()
        time.sleep(max(0.0, (expiry(here) - datetime.now(UTC)).total_seconds()) + 1)
        here.device.start("--transport", "auto")
        here.record_when(lambda record: record["reported"]["boot_id"] != report["boot_id"])
        assert f"renewed device={NAME} method=proof" in here.cloud.log.read_text()


def test_p16_the_broker_session_reconnects_once_with_the_new_certificate(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("mosquitto")
    with fleet(tmp_path, life_s=LIFETIME_S) as here:
        here.device.start("--transport", "mqtt")
        here.record_when(lambda record: record["online"])
        here.record_when(lambda _: here.device.log().count("connected transport=mqtt") == 2)
        assert here.device.log().count("reconnecting transport=mqtt") == 1
        assert here.cloud.log.read_text().count(f"renewed device={NAME} method=tls") == 1
        sequence = here.record_when(lambda record: record["online"])["reported"]["sequence"]
        here.record_when(lambda record: record["online"] and record["reported"]["sequence"] > sequence)


# The agent's part: when to renew, and which events to record


class EventLog:
    """Events that a renewer records."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def record(self, event: str, reason: str) -> None:
        self.events.append((event, reason))


def make_old(device: EnrolledDevice) -> None:
    """Backdate the current certificate by 80 days."""
    path = device.identity.credentials / "validity.json"
    then = datetime.now(UTC) - timedelta(days=80)
    path.write_bytes(wire.encode(Validity(not_before=then, not_after=then + timedelta(days=90), obtained_at=then)))


def run_renewer(device: EnrolledDevice, log: EventLog, done: Callable[[], bool]) -> None:
    """Run a renewer with a short check interval until `done()`."""
    settings = Settings(port=0, renewal_check_s=0.1, renewal_retry_s=0.1)
    connection = Connection((), lambda: None, base_s=1.0, cap_s=1.0, return_every_s=1.0)

    async def keep_renewing(directory: StateDirectory) -> None:
        work = asyncio.create_task(Renewer(directory, settings, connection, log.record).run_forever())
        async with asyncio.timeout(60):
            while not done():
                await asyncio.sleep(0.05)
        work.cancel()

    with StateDirectory.open(device.state, settings) as directory:
        asyncio.run(keep_renewing(directory))


def test_an_old_certificate_is_renewed_once_and_the_renewal_is_recorded(device: EnrolledDevice) -> None:
    make_old(device)
    log = EventLog()
    run_renewer(device, log, lambda: bool(log.events) and device.identity.credentials.name == "b")
    assert [event for event, _ in log.events] == ["renew"]


def test_a_new_certificate_is_not_renewed(device: EnrolledDevice) -> None:
    ends_at = time.monotonic() + 1.0
    log = EventLog()
    run_renewer(device, log, lambda: time.monotonic() > ends_at)
    assert log.events == []
    assert device.identity.credentials.name == "a"


def test_a_refused_renewal_is_retried_and_recorded_once(device: EnrolledDevice, caplog: pytest.LogCaptureFixture) -> None:
    make_old(device)
    device.cloud.operator().post(f"/v1/devices/{device.identity.device}/revoke")
    log = EventLog()
    with caplog.at_level(logging.WARNING, logger="edge_agent.renewal"):
        run_renewer(device, log, lambda: len(caplog.records) >= 2)
    assert [event for event, _ in log.events] == ["renewal_failed"]
    assert "was revoked at" in log.events[0][1]
    assert device.identity.credentials.name == "a"
