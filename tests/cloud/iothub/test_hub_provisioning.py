"""Devices that register themselves with Azure's provisioning client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.contracts.iothub import sas
from edgewright.errors import BadInputError, ConflictError
from tests.support.device_certificates import issued, self_signed
from tests.support.running_hub import RunningHub, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def registered(hub: RunningHub, clients_python: Path, require: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    require("openssl")
    folder = tmp_path_factory.mktemp("certificates")
    self_signed(folder, "single", "single")
    self_signed(folder, "plant", "plant", authority=True)
    issued(folder, "member", "member", "plant")
    issued(folder, "other-name", "other", "plant")
    single = command(hub, "create", "keyed", "--device", "press-9")
    group = command(hub, "create", "line-1", "--group")
    command(hub, "create", "single", "--certificate", str(folder / "single.pem"))
    command(hub, "create", "line-2", "--group", "--certificate", str(folder / "plant.pem"))
    twin = {"tags": {"line": 1}, "properties": {"desired": {"interval_s": 7}}}
    hub.client().call("PUT", "/enrollmentGroups/line-1", {"initialTwin": twin}, headers={"If-Match": "*"})

    def files(name: str) -> list[str]:
        return [str(folder / f"{name}.pem"), str(folder / f"{name}.key")]

    registrations = {
        "keyed": single["primary_key"],
        "derived": command(hub, "device-key", "line-1", "derived")["key"],
        "single": files("single"),
        "member": files("member"),
        "keyed again": single["primary_key"],
        "derived2 of another": sas.derive_key(group["primary_key"], "derived"),
        "keyed wrong": sas.new_key(),
        "single by-group": files("other-name"),
        "stranger": files("other-name"),
    }
    results = hub.call(clients_python, "provisioning", registrations=registrations, scope=single["id_scope"])
    return results["provisioning"]


def command(hub: RunningHub, *arguments: str) -> Any:
    """Run a command of enrolments and return its JSON."""
    line = [sys.executable, "-m", "edgewright", "iothub", "enrolments", *arguments, "--json", "--state", str(hub.state)]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    ("name", "device", "desired"),
    [
        pytest.param("keyed", "press-9", {"$version": 1}, id="individual key"),
        pytest.param("derived", "derived", {"interval_s": 7, "$version": 2}, id="key of a group, with its initial twin"),
        pytest.param("single", "single", {"$version": 1}, id="individual certificate"),
        pytest.param("member", "member", {"$version": 1}, id="certificate of a group's authority"),
        pytest.param("keyed again", "press-9", {"$version": 1}, id="second registration"),
    ],
)
def test_a_device_registers_and_connects_as_what_it_became(
    registered: Any, hub: RunningHub, name: str, device: str, desired: Any
) -> None:
    assert registered[name] == [device, hub.host, desired]


@pytest.mark.parametrize("name", ["derived2 of another", "keyed wrong", "single by-group", "stranger"])
def test_a_device_without_the_credential_of_its_enrolment_is_refused(registered: Any, name: str) -> None:
    assert registered[name] == "CredentialError"


def test_a_registration_has_a_record(registered: Any, hub: RunningHub) -> None:
    record = hub.client().call("GET", "/registrations/keyed")
    assert (record["deviceId"], record["status"], record["substatus"]) == ("press-9", "assigned", "deviceDataMigrated")


def test_enrolments_are_changed_with_their_etag_and_refused_with_a_reason(registered: Any, hub: RunningHub) -> None:
    service = hub.client()
    with pytest.raises(ConflictError, match="keyed has changed: read it again"):
        service.call("PUT", "/enrollments/keyed", {}, headers={"If-Match": "old"})
    with pytest.raises(BadInputError, match="attestation.type must be symmetricKey or x509, not 'tpm'"):
        service.call("PUT", "/enrollments/board", {"attestation": {"type": "tpm"}})
    listed = command(hub, "list")
    assert [each.get("registrationId") or each["enrollmentGroupId"] for each in listed] == ["keyed", "single", "line-1", "line-2"]
    assert "primaryKey" not in json.dumps(listed)
