"""Certificate renewal over TLS, and after the certificate has expired (protocol.md P14, P15)."""

from __future__ import annotations

import base64
import json
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert, update

from cloud.cli import group
from cloud.db.database import Database
from cloud.db.schema import certificates
from cloud.fleet.renewals import CHALLENGE_S, challenge, serial_of_nonce
from cloud.service import Settings
from cloud.state.certificates import Authority, Key, certificate_pem, key_pem, new_key, serial_of
from edgewright.contracts import signing, wire
from edgewright.contracts.connection.renewal import RenewalProof
from edgewright.errors import BadInputError, DeniedError
from tests.support.running_cloud import Answer, EnrolledDevice, Http, RunningCloud, make_csr, running

NOW = datetime(2030, 1, 1, tzinfo=UTC)
REVOKED = re.compile(r"device \S+ was revoked at .* UTC: contact the operator")


def renew(device: EnrolledDevice, csr: str) -> Answer:
    return device.http.post("/v1/device/certificate", {"csr_pem": csr})


def csr_in(folder: Path, name: str = "next") -> str:
    return make_csr(folder / f"{name}.key", common_name="whatever")


def with_certificate(cloud: RunningCloud, answer: Answer, key: Path) -> Http:
    path = key.with_suffix(".pem")
    path.write_text(answer.json()["certificate_pem"])
    return Http(cloud.url, cloud.ca, certificate=(path, key))


# P14: with a valid certificate


def test_p14_a_device_gets_its_next_certificate_for_a_new_key_under_its_name(cloud: RunningCloud, tmp_path: Path) -> None:
    device = cloud.enrol("renews", tmp_path)
    answer = renew(device, csr_in(tmp_path))
    assert answer.status == 201, answer.body
    body = answer.json()
    issued = x509.load_pem_x509_certificate(body["certificate_pem"].encode())
    assert body["device"] == "renews"
    assert [name.value for name in issued.subject] == ["renews"]
    assert datetime.fromisoformat(body["expires_at"]) == issued.not_valid_after_utc
    assert timedelta(days=89) < issued.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=90)
    assert with_certificate(cloud, answer, tmp_path / "next.key").get("/v1/device/desired").status == 204
    assert "renewed device=renews method=tls serial=" in cloud.log.read_text()


def test_p14_the_old_certificate_stays_valid_so_that_a_lost_response_does_no_harm(cloud: RunningCloud, tmp_path: Path) -> None:
    device = cloud.enrol("overlaps", tmp_path)
    csr = csr_in(tmp_path)
    first, again = renew(device, csr), renew(device, csr)
    assert (first.status, again.status) == (201, 201)
    assert first.json()["certificate_pem"] != again.json()["certificate_pem"]
    assert device.http.get("/v1/device/desired").status == 204


def test_p14_a_csr_for_the_present_key_is_refused(cloud: RunningCloud, tmp_path: Path) -> None:
    device = cloud.enrol("keeps-key", tmp_path)
    key = serialization.load_pem_private_key(device.certificate[1].read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    answer = renew(device, csr_of(key))
    assert (answer.status, answer.error) == (
        400,
        "the certificate signing request must be for a new key, but it is for the current one: create another key",
    )


def test_p14_revocation_invalidates_every_certificate_and_ends_renewal(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    device = cloud.enrol("ended", tmp_path)
    renewed = with_certificate(cloud, renew(device, csr_in(tmp_path)), tmp_path / "next.key")
    operator.post("/v1/devices/ended/revoke")
    for each in (device.http, renewed):
        answer = each.post("/v1/device/certificate", {"csr_pem": csr_in(tmp_path, "third")})
        assert answer.status == 403
        assert REVOKED.fullmatch(answer.error)


def test_p14_an_anonymous_caller_gets_401_and_an_operator_403(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    body = {"csr_pem": csr_in(tmp_path)}
    anonymous = cloud.anonymous().post("/v1/device/certificate", body)
    assert (anonymous.status, anonymous.error) == (
        401,
        "this request requires the role device, but it has no credential: send a token or a certificate",
    )
    by_operator = operator.post("/v1/device/certificate", body)
    assert (by_operator.status, by_operator.error) == (
        403,
        "this request requires the role device, but the credential has the role operator",
    )


def test_an_operator_may_shorten_but_not_lengthen_the_validity(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--no-broker", "--device-days", "7") as strict:
        device = strict.enrol("brief", tmp_path)
        for pem in (device.enrolment["certificate_pem"], renew(device, csr_in(tmp_path)).json()["certificate_pem"]):
            left = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc - datetime.now(UTC)
            assert timedelta(days=6.9) < left <= timedelta(days=7)
    refused = CliRunner().invoke(group, ["up", "--state", str(tmp_path / "none"), "--device-days", "91"])
    assert refused.exit_code == 2
    assert "91 is not in the range 1<=x<=90" in refused.output


def test_p14_an_invalid_csr_is_400(cloud: RunningCloud, tmp_path: Path) -> None:
    answer = renew(cloud.enrol("sloppy-renewal", tmp_path), "no CSR")
    assert answer.status == 400
    assert answer.error.startswith("csr_pem must be a PEM certificate signing request: ")


# P15: after expiry


@dataclass
class ExpiredDevice:
    """A device that was stored until its certificate expired."""

    cloud: RunningCloud
    device: str
    key: Key
    certificate: x509.Certificate
    folder: Path

    def proof(self, **changes: str) -> RenewalProof:
        fields = {
            "nonce": self.cloud.anonymous().get("/v1/renew").json()["nonce"],
            "certificate_pem": certificate_pem(self.certificate).decode(),
            "csr_pem": csr_in(self.folder),
        }
        return RenewalProof(**{**fields, **changes})

    def ask(self, proof: RenewalProof, key: Key | None = None) -> Answer:
        return self.cloud.anonymous().post("/v1/renew", signing.sign(wire.encode(proof), signing.RENEWAL_TYPE, key or self.key))

    def http(self) -> Http:
        (self.folder / "old.pem").write_bytes(certificate_pem(self.certificate))
        (self.folder / "old.key").write_bytes(key_pem(self.key))
        return Http(self.cloud.url, self.cloud.ca, certificate=(self.folder / "old.pem", self.folder / "old.key"))


def expired_device(cloud: RunningCloud, folder: Path, device: str, *, expired_days_ago: float) -> ExpiredDevice:
    """Enrol a device and let its last certificate have expired `expired_days_ago` days ago."""
    cloud.enrol(device, folder)
    authority = Authority.from_pem((cloud.state / "ca.pem").read_bytes(), (cloud.state / "ca.key").read_bytes())
    key = new_key()
    certificate = authority.issue_client(device, key.public_key(), datetime.now(UTC) - timedelta(days=90 + expired_days_ago))
    database = Database.open(f"sqlite:///{cloud.state / 'cloud.db'}")
    row = {"serial": serial_of(certificate), "device": device, "expires_at": certificate.not_valid_after_utc}
    with database.transaction() as connection:
        connection.execute(update(certificates).where(certificates.c.device == device).values(expires_at=NOW.replace(year=2020)))
        connection.execute(insert(certificates).values(row))
    database.close()
    return ExpiredDevice(cloud, device, key, certificate, folder)


@pytest.fixture(scope="module")
def expired(cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> ExpiredDevice:
    return expired_device(cloud, tmp_path_factory.mktemp("expired"), "expired", expired_days_ago=60)


def test_p15_an_expired_certificate_is_refused_in_the_handshake(expired: ExpiredDevice) -> None:
    with pytest.raises((ssl.SSLError, urllib3.exceptions.HTTPError)):
        expired.http().get("/v1/device/desired")


def test_p15_a_device_that_proves_possession_of_its_expired_key_gets_a_certificate(cloud: RunningCloud, tmp_path: Path) -> None:
    device = expired_device(cloud, tmp_path, "woken", expired_days_ago=60)
    answer = device.ask(device.proof())
    assert answer.status == 201, answer.body
    assert answer.json()["device"] == "woken"
    assert with_certificate(cloud, answer, tmp_path / "next.key").get("/v1/device/desired").status == 204
    assert "renewed device=woken method=proof serial=" in cloud.log.read_text()


def test_p15_a_lost_response_can_be_requested_again_until_the_device_is_seen(cloud: RunningCloud, tmp_path: Path) -> None:
    device = expired_device(cloud, tmp_path, "unlucky", expired_days_ago=60)
    assert device.ask(device.proof()).status == 201
    answer = device.ask(device.proof())
    assert answer.status == 201
    assert with_certificate(cloud, answer, tmp_path / "next.key").get("/v1/device/desired").status == 204
    too_late = device.ask(device.proof())
    assert too_late.status == 403
    assert too_late.error.startswith("the expired certificate must be the device's newest, but a newer one")


def test_p15_a_reused_proof_is_refused(expired: ExpiredDevice) -> None:
    proof = expired.proof()
    assert expired.ask(proof).status == 201
    answer = expired.ask(proof)
    assert (answer.status, answer.error) == (
        409,
        "a nonce must be used once, but this one was used before: request another with GET /v1/renew",
    )


def test_p15_a_signature_by_another_key_is_refused(expired: ExpiredDevice) -> None:
    answer = expired.ask(expired.proof(), key=new_key())
    assert answer.status == 403
    assert answer.error.startswith("the renewal must be signed by the key of the expired certificate: the signature must be")


def test_p15_a_changed_payload_under_a_valid_signature_is_refused(expired: ExpiredDevice, cloud: RunningCloud) -> None:
    proof = expired.proof()
    envelope = json.loads(signing.sign(wire.encode(proof), signing.RENEWAL_TYPE, expired.key))
    changed = RenewalProof(nonce=proof.nonce, certificate_pem=proof.certificate_pem, csr_pem=csr_in(expired.folder, "forger"))
    envelope["payload"] = base64.b64encode(wire.encode(changed)).decode()
    answer = cloud.anonymous().post("/v1/renew", envelope)
    assert answer.status == 403
    assert "one of them was changed" in answer.error


def test_p15_another_devices_certificate_is_refused(expired: ExpiredDevice, cloud: RunningCloud, tmp_path: Path) -> None:
    victim = expired_device(cloud, tmp_path, "victim", expired_days_ago=1)
    stolen = certificate_pem(victim.certificate).decode()
    assert expired.ask(expired.proof(certificate_pem=stolen)).status == 403


def test_p15_a_signature_made_for_another_purpose_is_refused(expired: ExpiredDevice, cloud: RunningCloud) -> None:
    envelope = signing.sign(wire.encode(expired.proof()), signing.DESIRED_TYPE, expired.key)
    assert cloud.anonymous().post("/v1/renew", envelope).status == 403


def test_p15_a_certificate_of_another_authority_is_refused(expired: ExpiredDevice) -> None:
    foreign = Authority.create(NOW).issue_client("expired", expired.key.public_key(), datetime.now(UTC) - timedelta(days=91))
    answer = expired.ask(expired.proof(certificate_pem=certificate_pem(foreign).decode()))
    assert (answer.status, answer.error) == (
        403,
        "the expired certificate must be issued by this cloud, but it was not: enrol the device",
    )


def test_p15_a_revoked_device_gets_no_certificate(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = expired_device(cloud, tmp_path, "asleep-and-revoked", expired_days_ago=60)
    operator.post("/v1/devices/asleep-and-revoked/revoke")
    answer = device.ask(device.proof())
    assert answer.status == 403
    assert REVOKED.fullmatch(answer.error)


def test_p15_the_old_key_of_a_revoked_and_enrolled_again_name_is_refused(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    device = expired_device(cloud, tmp_path, "passed-on", expired_days_ago=60)
    operator.post("/v1/devices/passed-on/revoke")
    cloud.enrol("passed-on", tmp_path, device="passed-on")
    assert device.ask(device.proof()).status == 403


@pytest.mark.parametrize(
    ("expired_days_ago", "status", "text"),
    [
        pytest.param(729.5, 201, "", id="within two years"),
        pytest.param(731.0, 403, "must have expired at most 730 days ago", id="longer ago"),
        pytest.param(-1.0, 409, "renew it over TLS with POST /v1/device/certificate", id="not yet"),
    ],
)
def test_p15_an_expired_certificate_can_be_renewed_for_two_years(
    cloud: RunningCloud, tmp_path: Path, expired_days_ago: float, status: int, text: str
) -> None:
    name = f"sleeps-{expired_days_ago:.0f}".replace("--", "-")
    device = expired_device(cloud, tmp_path, name, expired_days_ago=expired_days_ago)
    answer = device.ask(device.proof())
    assert answer.status == status, answer.body
    assert text in answer.body.decode()


def test_p15_an_invalid_envelope_or_certificate_is_400(expired: ExpiredDevice, cloud: RunningCloud) -> None:
    bodies: list[Any] = [{"payload": "?", "payloadType": "x", "signatures": []}, {"payload": "e30=", "payloadType": "x"}]
    assert [cloud.anonymous().post("/v1/renew", body).status for body in bodies] == [400, 400]
    assert expired.ask(expired.proof(certificate_pem="none")).status == 400


def test_p15_a_nonce_is_valid_for_two_minutes_and_only_at_its_cloud() -> None:
    authority = Authority.create(NOW)
    nonce = challenge(authority, NOW).nonce
    assert serial_of_nonce(authority, nonce, NOW + timedelta(seconds=CHALLENGE_S - 1)).bit_length() <= 159
    with pytest.raises(DeniedError, match="the nonce must not be expired, but it expired at 2030-01-01 00:02:00 UTC"):
        serial_of_nonce(authority, nonce, NOW + timedelta(seconds=CHALLENGE_S))
    for forged in ("", "nonsense", "ümlaut", "A" + nonce[1:] if nonce[0] != "A" else "B" + nonce[1:]):
        with pytest.raises(DeniedError, match="the nonce must be issued by this cloud"):
            serial_of_nonce(authority, forged, NOW)
    with pytest.raises(DeniedError, match="the nonce must be issued by this cloud"):
        serial_of_nonce(Authority.create(NOW), nonce, NOW)


def test_the_metrics_count_issued_certificates_and_devices_without_a_valid_one(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    def numbers() -> tuple[int, int]:
        metrics = operator.get("/metrics").body.decode()
        names = ("edgewright_device_certificates_total", "edgewright_devices_expired")
        issued, without_valid = (int(re.findall(rf"^{name} (\d+)$", metrics, re.MULTILINE)[0]) for name in names)
        return issued, without_valid

    issued, without_valid = numbers()
    device = expired_device(cloud, tmp_path, "counted", expired_days_ago=1)
    assert numbers() == (issued + 2, without_valid + 1)
    device.ask(device.proof())
    assert numbers() == (issued + 3, without_valid)


@pytest.mark.parametrize("days", [0, -1, 91])
def test_a_validity_over_90_days_or_of_0_days_is_refused(tmp_path: Path, days: float) -> None:
    with pytest.raises(BadInputError, match="device_days must be greater than 0 and at most 90"):
        Settings(state=tmp_path, device_days=days)


def csr_of(key: ec.EllipticCurvePrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
