"""Devices with certificates, and devices that may use the port of HTTPS only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.iothub.http.device import Container
from edgewright.errors import BadInputError
from tests.support.device_certificates import issued, self_signed
from tests.support.running_hub import RunningHub, running_hub

CONTAINER = "https://store.example/uploads?sv=2025&sig=c2VjcmV0"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    os.environ["EDGEWRIGHT_UPLOAD_CONTAINER"] = CONTAINER
    try:
        with running_hub(tmp_path_factory.mktemp("hub")) as running:
            yield running
    finally:
        del os.environ["EDGEWRIGHT_UPLOAD_CONTAINER"]


def test_certificates_prove_the_identity_that_they_belong_to(
    hub: RunningHub, tmp_path: Path, clients_python: Path, require: Any
) -> None:
    require("openssl")
    self_signed(tmp_path, "own", "own")
    self_signed(tmp_path, "next", "own")
    self_signed(tmp_path, "stranger", "own")
    self_signed(tmp_path, "authority", "plant", authority=True)
    self_signed(tmp_path, "foreign-authority", "plant", authority=True)
    issued(tmp_path, "signed", "signed", "authority")
    issued(tmp_path, "forged", "signed", "foreign-authority")
    issued(tmp_path, "by-a-device", "signed", "own")
    service = hub.client()
    first, second = (service.call("POST", "/certificates", (tmp_path / f"{name}.pem").read_bytes()) for name in ("own", "next"))
    pair = {"primaryThumbprint": first["thumbprint"], "secondaryThumbprint": second["thumbprint"]}
    service.call("PUT", "/devices/own", {"authentication": {"type": "selfSigned", "x509Thumbprint": pair}})
    added = service.call("POST", "/certificates", (tmp_path / "authority.pem").read_bytes())
    service.call("PUT", "/devices/signed", {"authentication": {"type": "certificateAuthority"}})
    pairs = {
        "own": "own",
        "own next": "next",
        "own stranger": "stranger",
        "own signed": "signed",
        "signed": "signed",
        "signed forged": "forged",
        "signed by-a-device": "by-a-device",
        "signed own": "own",
    }
    files = {case: (str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key")) for case, name in pairs.items()}

    outcomes = hub.call(clients_python, "certificates", certificates=files)["certificates"]

    assert {case for case, outcome in outcomes.items() if outcome == "connected"} == {"own", "own next", "signed"}
    assert outcomes["own signed"] == outcomes["signed own"] == "CredentialError"
    service.call("DELETE", f"/certificates/{added['thumbprint']}")
    again = hub.call(clients_python, "certificates", certificates={"signed": files["signed"]})
    assert again["certificates"]["signed"] == "CredentialError"


@pytest.fixture(scope="module")
def proxied(hub: RunningHub, clients_python: Path) -> Any:
    if hub.started["https_port"] != 443:
        pytest.skip("the client libraries use port 443, which this user may not open")
    return hub.call(clients_python, "websockets")["websockets"]


def test_messages_pass_over_websockets(proxied: Any) -> None:
    assert proxied["received"] == 60000
    assert proxied["twin"] == {"$version": 1}
    assert proxied["events"][0] == "y" * 200000


def test_an_upload_is_handed_over_to_the_container_and_its_end_is_an_event(proxied: Any) -> None:
    place = proxied["place"]
    del place["correlationId"]
    assert place == {
        "hostName": "store.example",
        "containerName": "uploads",
        "blobName": "proxied/log.txt",
        "sasToken": "?sv=2025&sig=c2VjcmV0",
    }
    assert json.loads(proxied["events"][1]) == {
        "deviceId": "proxied",
        "blobName": "proxied/log.txt",
        "blobUri": "https://store.example/uploads/proxied/log.txt",
        "isSuccess": True,
        "statusDescription": "done",
    }


def test_the_signature_of_the_container_is_in_no_message() -> None:
    assert "sig" not in repr(Container.from_url(CONTAINER))
    with pytest.raises(BadInputError, match="must be an https:// URL of a container with its shared access signature$"):
        Container.from_url("https://store.example/?sig=c2VjcmV0")
