"""The workload API on its socket: signatures, certificates, and the limits of each module."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud.state.certificates import Authority
from edgewright.iotedge.runtime.certificates import DeviceAuthority
from edgewright.iotedge.runtime.identities import ModuleIdentity
from edgewright.iotedge.runtime.workload import SOCKET, Workloads

KEY = base64.b64encode(b"k" * 32).decode()
IDENTITIES = {name: ModuleIdentity(name, "77", KEY) for name in ("camera", "ocr")}


@pytest.fixture
def workloads(tmp_path: Path) -> Iterator[Workloads]:
    hub = tmp_path / "hub.pem"
    hub.write_text(Authority.create(datetime.now(UTC)).pem)
    deep = tmp_path / ("long-name-" * 12)  # longer than the address of a socket may be
    found = Workloads(deep, IDENTITIES.get, DeviceAuthority(tmp_path, hub))
    yield found
    found.close()


def call(folder: Path, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("module")
    connection.sock = socket.socket(socket.AF_UNIX)
    descriptor = os.open(folder, os.O_PATH)
    connection.sock.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
    os.close(descriptor)
    connection.request(method, f"{path}?api-version=2019-01-30", None if body is None else json.dumps(body))
    answer = connection.getresponse()
    result = answer.status, json.loads(answer.read())
    connection.close()
    return result


def test_a_module_signs_with_its_key_as_itself_only(workloads: Workloads) -> None:
    folder = workloads.folder_of("camera")
    request = {"keyId": "primary", "algo": "HMACSHA256", "data": base64.b64encode(b"text\n9").decode()}
    status, answer = call(folder, "POST", "/modules/camera/genid/77/sign", request)
    assert (status, base64.b64decode(answer["digest"])) == (200, hmac.digest(b"k" * 32, b"text\n9", hashlib.sha256))
    assert call(folder, "POST", "/modules/ocr/genid/77/sign", request)[0] == 403
    assert call(folder, "POST", "/modules/camera/genid/76/sign", request)[0] == 403
    assert call(folder, "POST", "/modules/camera/genid/77/sign", {"data": "%"})[0] == 400
    assert call(folder, "POST", "/modules/camera/genid/77/decrypt", request)[0] == 404
    assert call(folder, "GET", "/modules")[0] == 404


def test_certificates_of_modules_are_issued_by_an_authority_of_the_trust_bundle(workloads: Workloads) -> None:
    folder = workloads.folder_of("camera")
    status, bundle = call(folder, "GET", "/trust-bundle")
    authorities = x509.load_pem_x509_certificates(bundle["certificate"].encode())
    assert (status, len(authorities)) == (200, 2)
    uses = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "identity": ExtendedKeyUsageOID.CLIENT_AUTH}
    for kind, use in uses.items():
        status, answer = call(folder, "POST", f"/modules/camera/genid/77/certificate/{kind}", {"commonName": "camera"})
        own, issuer = x509.load_pem_x509_certificates(answer["certificate"].encode())
        assert (status, issuer) == (201, authorities[1])
        own.verify_directly_issued_by(issuer)
        assert list(own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [use]
        assert answer["privateKey"]["bytes"].startswith("-----BEGIN PRIVATE KEY-----")
    assert call(folder, "POST", "/modules/camera/genid/77/certificate/server", {"commonName": "a b"})[0] == 400


def test_the_socket_of_a_removed_module_is_gone_and_a_new_runtime_replaces_that_of_a_killed_one(workloads: Workloads) -> None:
    folder = workloads.folder_of("camera")
    workloads.remove("camera")
    assert not folder.exists()
    folder.mkdir()
    (folder / SOCKET).write_text("left by a killed runtime")
    assert call(workloads.folder_of("camera"), "GET", "/trust-bundle")[0] == 200
