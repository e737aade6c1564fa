"""Enrolment and revocation of devices over real TLS (protocol.md P1, P2, P3, P10-P13)."""

from __future__ import annotations

import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud.state.certificates import Authority, certificate_pem, key_pem, new_key
from edgewright.contracts.connection.enrolment import parse_token
from tests.support.running_cloud import Answer, Http, RunningCloud, make_csr


def try_to_enrol(cloud: RunningCloud, tmp_path: Path, secret: str, device: str) -> Answer:
    csr = make_csr(tmp_path / "attempt.key", common_name=device)
    return cloud.anonymous().post("/v1/enrol", {"secret": secret, "device": device, "csr_pem": csr})


def test_p1_only_the_owner_can_read_the_state_directory(cloud: RunningCloud) -> None:
    readable_by_others = [path for path in cloud.state.rglob("*") if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert readable_by_others == []


def test_p2_the_operator_token_authenticates_an_operator(cloud: RunningCloud) -> None:
    assert cloud.operator().get("/v1/devices").status == 200


def test_p3_without_a_credential_the_answer_is_401(cloud: RunningCloud) -> None:
    answer = cloud.anonymous().get("/v1/devices")
    assert (answer.status, answer.error) == (
        401,
        "this request requires the role operator, but it has no credential: send a token or a certificate",
    )


def test_p3_with_a_wrong_token_the_answer_is_401(cloud: RunningCloud) -> None:
    assert cloud.anonymous(token="wrong").get("/v1/devices").status == 401


def test_p3_a_device_gets_403_from_an_operator_endpoint(cloud: RunningCloud, tmp_path: Path) -> None:
    device = cloud.enrol("curious", tmp_path)
    answer = device.http.get("/v1/devices")
    assert (answer.status, answer.error) == (
        403,
        "this request requires the role operator, but the credential has the role device",
    )


def test_p3_an_operator_gets_403_from_a_device_endpoint(operator: Http) -> None:
    assert operator.get("/v1/device/desired").status == 403


def test_p3_an_invalid_body_is_400_and_names_the_field(operator: Http) -> None:
    answer = operator.post("/v1/tokens", {"valid_s": "long"})
    assert (answer.status, answer.error) == (400, "the body cannot be read: Expected `float`, got `str` - at `$.valid_s`")


def test_p3_a_body_over_the_limit_is_413(operator: Http) -> None:
    assert operator.post("/v1/tokens", b" " * (9 << 20)).status == 413


def test_p11_the_token_contains_the_digest_of_the_authority(cloud: RunningCloud, operator: Http) -> None:
    token = parse_token(operator.post("/v1/tokens", {}).json()["token"])
    with (
        urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False) as unverified,
        pytest.warns(urllib3.exceptions.InsecureRequestWarning),
    ):
        pem = unverified.request("GET", f"{token.url}/v1/ca").data
    assert x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex() == token.ca_sha256


def test_p12_the_certificate_has_the_name_of_the_device_and_not_that_of_the_csr(cloud: RunningCloud, tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(cloud.enrol("press-1", tmp_path).enrolment["certificate_pem"].encode())
    assert [name.value for name in certificate.subject] == ["press-1"]


def test_p12_the_certificate_is_for_clients_and_valid_for_90_days(cloud: RunningCloud, tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(cloud.enrol("press-2", tmp_path).enrolment["certificate_pem"].encode())
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert timedelta(days=89) < certificate.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=90)


def test_p12_a_token_works_once(cloud: RunningCloud, tmp_path: Path) -> None:
    secret = cloud.secret()
    assert try_to_enrol(cloud, tmp_path, secret, "first").status == 201
    answer = try_to_enrol(cloud, tmp_path, secret, "second")
    assert (answer.status, answer.error) == (403, "the enrolment token was used before: ask the operator for another")


def test_p12_a_forged_token_is_refused(cloud: RunningCloud, tmp_path: Path) -> None:
    answer = try_to_enrol(cloud, tmp_path, "forged", "forger")
    assert (answer.status, answer.error) == (403, "the enrolment token was not issued by this cloud: ask the operator for one")


def test_p12_a_token_for_another_name_is_refused_and_stays_valid(cloud: RunningCloud, tmp_path: Path) -> None:
    secret = cloud.secret(device="right")
    answer = try_to_enrol(cloud, tmp_path, secret, "wrong")
    assert (answer.status, answer.error) == (403, "the enrolment token is for device right, not for wrong")
    assert try_to_enrol(cloud, tmp_path, secret, "right").status == 201


def test_p12_a_taken_name_is_refused_and_the_token_stays_valid(cloud: RunningCloud, tmp_path: Path) -> None:
    cloud.enrol("taken", tmp_path)
    secret = cloud.secret()
    answer = try_to_enrol(cloud, tmp_path, secret, "taken")
    assert answer.status == 403
    assert answer.error == "the name taken is taken by another device: choose another name, or revoke that one first"
    assert try_to_enrol(cloud, tmp_path, secret, "not-taken").status == 201


def test_p12_the_name_of_the_cloud_is_refused(cloud: RunningCloud, tmp_path: Path) -> None:
    answer = try_to_enrol(cloud, tmp_path, cloud.secret(), "edgewright-cloud")
    assert answer.status == 400
    assert answer.error == "a device must not be called edgewright-cloud, which is the name of the cloud: choose another"


def test_p12_an_invalid_csr_is_refused_and_the_token_stays_valid(cloud: RunningCloud, tmp_path: Path) -> None:
    secret = cloud.secret()
    answer = cloud.anonymous().post("/v1/enrol", {"secret": secret, "device": "sloppy", "csr_pem": "not a CSR"})
    assert answer.status == 400
    assert answer.error.startswith("csr_pem must be a PEM certificate signing request: ")
    assert try_to_enrol(cloud, tmp_path, secret, "sloppy").status == 201


def test_a_devices_labels_come_from_its_token_and_can_be_replaced(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    cloud.enrol("labelled", tmp_path, labels={"site": "berlin"})
    assert operator.get("/v1/devices/labelled").json()["labels"] == {"site": "berlin"}
    assert operator.put("/v1/devices/labelled/labels", {"ring": "1"}).json()["labels"] == {"ring": "1"}


def test_an_unknown_device_is_404_with_the_nearest_names(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    cloud.enrol("camera-17", tmp_path)
    answer = operator.get("/v1/devices/camera-71")
    assert answer.status == 404
    assert answer.error.startswith("no device is called 'camera-71'; known: camera-17")


def test_a_revoked_device_is_refused_on_its_open_connection(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("stolen", tmp_path)
    assert device.http.get("/v1/device/desired").status == 204
    assert operator.post("/v1/devices/stolen/revoke").json()["revoked"] is True
    answer = device.http.get("/v1/device/desired")
    assert answer.status == 403
    assert answer.error.startswith("device stolen was revoked at ")


def test_a_revoked_name_is_enrolled_again_only_with_a_token_for_that_name(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    old = cloud.enrol("repaired", tmp_path)
    operator.post("/v1/devices/repaired/revoke")
    assert try_to_enrol(cloud, tmp_path, cloud.secret(), "repaired").status == 403
    renewed_folder = tmp_path / "new"
    renewed_folder.mkdir()
    renewed = cloud.enrol("repaired", renewed_folder, device="repaired")
    assert renewed.http.get("/v1/device/desired").status == 204
    assert old.http.get("/v1/device/desired").status == 403


def test_the_certificate_of_the_mqtt_client_is_refused_as_a_device(cloud: RunningCloud) -> None:
    mqtt_client = Http(cloud.url, cloud.ca, certificate=(cloud.state / "mqtt.pem", cloud.state / "mqtt.key"))
    answer = mqtt_client.get("/v1/device/desired")
    assert (answer.status, answer.error) == (
        403,
        "the client certificate must be issued by this cloud to a device, but it was not: enrol the device",
    )


def test_a_certificate_of_another_authority_fails_in_the_handshake(cloud: RunningCloud, tmp_path: Path) -> None:
    now, key = datetime.now(UTC), new_key()
    foreign = Authority.create(now).issue_client("intruder", key.public_key(), now)
    (tmp_path / "pem").write_bytes(certificate_pem(foreign))
    (tmp_path / "key").write_bytes(key_pem(key))
    intruder = Http(cloud.url, cloud.ca, certificate=(tmp_path / "pem", tmp_path / "key"))
    with pytest.raises((ssl.SSLError, urllib3.exceptions.HTTPError)):
        intruder.get("/v1/device/desired")


def test_of_two_devices_with_one_token_at_the_same_time_one_is_enrolled(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    secret = cloud.secret()
    folders = [tmp_path / "a", tmp_path / "b"]
    for each in folders:
        each.mkdir()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda each: try_to_enrol(cloud, each, secret, f"twin-{each.name}"), folders))
    assert sorted(answer.status for answer in answers) == [201, 403]
