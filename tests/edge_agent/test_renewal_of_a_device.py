"""The next certificate, from the project's own cloud: P14 to P16, wherever the worker or the connection dies."""

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
from edge_agent.identity.certificate import ALREADY, renew
from edge_agent.identity.device_key import make_key, read_key, store_certificate
from edge_agent.identity.enrolment import enrol
from edge_agent.identity.identity import Identity, Validity
from edge_agent.link.connection import Connection
from edge_agent.link.https_client import Exchange
from edge_agent.renewal import Renewer
from edge_agent.settings import Settings
from edge_agent.state_directory import House, entered
from edge_agent.storage.failpoints import RENEWAL_FAILPOINTS, VARIABLE
from edge_agent.workers.orders import RenewalOrder
from edge_agent.workers.worker import Failure, WorkerResult, run_worker
from edgewright.contracts import wire
from edgewright.errors import DeniedError, MessageError, OperationError, UnreachableError
from tests.support.device_packages import Built
from tests.support.real_fleet import NAME, Fleet, fleet, runs
from tests.support.running_cloud import RunningCloud, running


@dataclass
class Member:
    """An enrolled device without an agent, and what its cloud would say of it."""

    cloud: RunningCloud
    state: Path

    @property
    def identity(self) -> Identity:
        return Identity.load(self.state)

    def is_let_in(self) -> bool:
        identity = self.identity
        path = "/v1/device/desired?have=0&wait_s=0"
        return Exchange(identity.url, identity.tls_context()).run("GET", path).status == 204

    def work(self, slot: str = "a") -> WorkerResult:
        """Have a worker of its own renew."""
        order = RenewalOrder(state_directory=str(self.state), slot=slot)
        return asyncio.run(run_worker("edge_agent.identity.certificate", order, timeout_s=60))

    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.identity.certificate.read_bytes()).serial_number

    def expire(self, days_ago: float) -> None:
        """Put an expired certificate where the present one is; the cloud knows of it."""
        authority = authority_of(self.cloud)
        slot = self.identity.slot
        key = read_key(slot)
        assert key is not None
        expired = authority.issue_client(
            self.identity.device, key.public_key(), datetime.now(UTC) - timedelta(days=90 + days_ago)
        )
        (slot / "device.crt").write_bytes(certificate_pem(expired))
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
def member(real_cloud: RunningCloud, tmp_path: Path) -> Member:
    token = real_cloud.operator().post("/v1/tokens", {}).json()["token"]
    enrol(tmp_path / "device", token_text=token, device=f"cam-{secrets.token_hex(4)}", profile="generic-x86-64")
    return Member(real_cloud, tmp_path / "device")


def test_p16_a_renewal_makes_a_new_key_in_the_other_slot_and_leaves_the_old_pair_whole(member: Member) -> None:
    old, old_key, old_serial = member.identity.slot, member.identity.key.read_bytes(), member.serial()
    assert renew(member.identity).startswith("the certificate is good until ")
    assert (old.name, member.identity.slot.name) == ("a", "b")
    assert member.identity.key.read_bytes() != old_key == (old / "device.key").read_bytes()
    assert stat.S_IMODE(member.identity.key.stat().st_mode) == 0o600
    assert member.serial() != old_serial
    assert member.is_let_in()
    validity = member.identity.validity()
    assert validity is not None
    assert abs(validity.obtained_at - datetime.now(UTC)) < timedelta(minutes=1)
    renew(member.identity)
    assert member.identity.slot.name == "a"
    assert member.is_let_in()


def test_an_order_for_a_slot_that_is_no_longer_in_use_renews_nothing(member: Member) -> None:
    renew(member.identity)
    serial = member.serial()
    assert member.work(slot="a").reason == ALREADY
    assert member.serial() == serial


@pytest.mark.parametrize("failpoint", RENEWAL_FAILPOINTS)
def test_p16_killed_between_any_two_steps_the_device_is_let_in_and_renews_with_the_next_attempt(
    failpoint: str, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, failpoint)
    answer = member.work()
    assert answer.failure is Failure.CRASHED
    assert "SIGKILL" in answer.reason
    assert member.identity.slot.name == ("b" if failpoint == "certificate.after_rename" else "a")
    assert member.is_let_in()
    monkeypatch.delenv(VARIABLE)
    assert member.work().failure is None
    assert member.identity.slot.name == "b"
    assert member.is_let_in()
    assert {path.name for path in member.identity.folder.iterdir()} == {
        "a", "b", "ca.pem", "current", "enrolment.json", "renewal.lock",
    }  # fmt: skip


def test_p15_a_certificate_that_expired_in_a_warehouse_is_renewed_without_hands(member: Member) -> None:
    member.expire(days_ago=60)
    with pytest.raises(UnreachableError):
        member.is_let_in()
    assert member.work().failure is None
    assert member.is_let_in()


def test_p15_a_revoked_device_is_refused_whether_its_certificate_expired_or_not(member: Member) -> None:
    member.cloud.operator().post(f"/v1/devices/{member.identity.device}/revoke")
    with pytest.raises(DeniedError, match=r"was revoked at .*: ask the operator"):
        renew(member.identity)
    member.expire(days_ago=60)
    with pytest.raises(DeniedError, match=r"was revoked: ask the operator"):
        renew(member.identity)
    assert member.identity.slot.name == "a"


def test_a_good_certificate_whose_key_is_damaged_is_told_and_nothing_is_switched(member: Member) -> None:
    member.identity.key.write_bytes(b"")
    with pytest.raises(OperationError, match="must hold the device's certificate and its key, but"):
        renew(member.identity)
    assert member.identity.slot.name == "a"


def test_a_cloud_that_is_not_there_is_no_refusal(member: Member) -> None:
    record = member.identity.folder / "enrolment.json"
    record.write_text(record.read_text().replace(member.cloud.url, "https://127.0.0.1:1"))
    answer = member.work()
    assert answer.failure is Failure.OFFLINE
    assert member.identity.slot.name == "a"


@pytest.mark.parametrize("wrong", ["key", "name", "authority"])
def test_a_certificate_that_is_not_what_was_asked_for_is_not_taken(member: Member, wrong: str, tmp_path: Path) -> None:
    now, identity = datetime.now(UTC), member.identity
    key = make_key(tmp_path / "slot")
    authority = Authority.create(now) if wrong == "authority" else authority_of(member.cloud)
    issued = authority.issue_client(
        "someone" if wrong == "name" else identity.device, (new_key() if wrong == "key" else key).public_key(), now
    )
    with pytest.raises(MessageError):
        store_certificate(
            tmp_path / "slot",
            certificate_pem(issued).decode(),
            key=key,
            device=identity.device,
            authority=identity.authority,
        )
    assert not (tmp_path / "slot" / "device.crt").exists()


def test_a_lost_link_is_found_again_from_the_slots(member: Member) -> None:
    renew(member.identity)
    (member.identity.folder / "current").unlink()
    assert member.identity.slot.name == "b"
    assert member.is_let_in()
    renew(member.identity)
    assert member.identity.slot.name == "a"


LIFE_S = 14.0


def score_until(here: Fleet, v1: Built, ends_at: datetime) -> int:
    """Score all the time, and return how often; a single request that fails is an error."""
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


def test_p16_a_device_scores_on_through_its_renewals_and_comes_back_after_a_time_in_a_warehouse(
    tmp_path: Path, v1: Built
) -> None:
    with fleet(tmp_path, "--no-broker", life_s=LIFE_S) as here:
        here.publish(v1, 1)
        here.want(v1, 1)
        here.device.start("--transport", "auto")
        here.record_when(runs(1))
        first_expiry, runners = expiry(here), {runner.pid for runner in here.device.runners()}
        here.device.score_patiently(v1.samples)
        assert score_until(here, v1, first_expiry + timedelta(seconds=2)) > 20
        assert {runner.pid for runner in here.device.runners()} == runners
        assert expiry(here) > first_expiry
        heard = here.record_when(lambda record: record["online"])["reported"]
        here.record_when(lambda record: record["reported"]["sequence"] > heard["sequence"])
        assert f"renewed device={NAME} how=tls" in here.cloud.log.read_text()
        assert "connecting anew transport=https reason='the certificate was renewed'" in here.device.log()
        assert "renew" in [past["event"] for past in here.device.standing()["history"]]

        here.device.stop()
        time.sleep(max(0.0, (expiry(here) - datetime.now(UTC)).total_seconds()) + 1)
        here.device.start("--transport", "auto")
        here.record_when(lambda record: record["reported"]["boot_id"] != heard["boot_id"])
        assert f"renewed device={NAME} how=proof" in here.cloud.log.read_text()


def test_p16_a_session_with_the_broker_begins_anew_once_with_the_new_certificate(
    tmp_path: Path, require: Callable[[str], Path]
) -> None:
    require("mosquitto")
    with fleet(tmp_path, life_s=LIFE_S) as here:
        here.device.start("--transport", "mqtt")
        here.record_when(lambda record: record["online"])
        here.record_when(lambda _: here.device.log().count("connected transport=mqtt") == 2)
        assert here.device.log().count("connecting anew transport=mqtt") == 1
        assert here.cloud.log.read_text().count(f"renewed device={NAME} how=tls") == 1
        heard = here.record_when(lambda record: record["online"])["reported"]["sequence"]
        here.record_when(lambda record: record["online"] and record["reported"]["sequence"] > heard)


# The agent's part: when, and what is told


class Told:
    """What a renewer remembers, and an end for it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def remember(self, event: str, reason: str) -> None:
        self.events.append((event, reason))


def make_old(member: Member) -> None:
    """Let the certificate in use have come 80 days ago."""
    path = member.identity.slot / "validity.json"
    then = datetime.now(UTC) - timedelta(days=80)
    path.write_bytes(wire.encode(Validity(not_before=then, not_after=then + timedelta(days=90), obtained_at=then)))


def look_after(member: Member, told: Told, done: Callable[[], bool]) -> None:
    """Run a renewer that looks often until `done()`."""
    settings = Settings(port=0, renewal_check_s=0.1, renewal_retry_s=0.1)
    connection = Connection((), lambda: None, base_s=1.0, cap_s=1.0, return_every_s=1.0)

    async def live(house: House) -> None:
        work = asyncio.create_task(Renewer(house, settings, connection, told.remember).keep())
        async with asyncio.timeout(60):
            while not done():
                await asyncio.sleep(0.05)
        work.cancel()

    with entered(member.state, settings) as house:
        asyncio.run(live(house))


def test_an_old_certificate_is_renewed_once_and_told(member: Member) -> None:
    make_old(member)
    told = Told()
    look_after(member, told, lambda: bool(told.events) and member.identity.slot.name == "b")
    assert [event for event, _ in told.events] == ["renew"]


def test_a_young_certificate_is_left_alone(member: Member) -> None:
    ends_at = time.monotonic() + 1.0
    told = Told()
    look_after(member, told, lambda: time.monotonic() > ends_at)
    assert told.events == []
    assert member.identity.slot.name == "a"


def test_a_refusal_is_asked_about_again_and_remembered_once(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    make_old(member)
    member.cloud.operator().post(f"/v1/devices/{member.identity.device}/revoke")
    told = Told()
    with caplog.at_level(logging.WARNING, logger="edge_agent.renewal"):
        look_after(member, told, lambda: len(caplog.records) >= 2)
    assert [event for event, _ in told.events] == ["not_renewed"]
    assert "was revoked at" in told.events[0][1]
    assert member.identity.slot.name == "a"
