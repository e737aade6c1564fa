"""The hub with Azure's own client libraries for devices and for services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_hub import RunningHub, running_hub

CLIENTS = ("press-1", "press-2", "press-1/camera")
PROPERTIES = {"$.mid": "m1", "$.ct": "application/json", "$.ce": "utf-8", "k": "a b+c/é&="}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def results(hub: RunningHub, clients_python: Path) -> Any:
    return hub.call(clients_python, "identities", "offline", "refusals", "rotation")


@pytest.fixture(scope="module")
def exchanged(results: Any) -> Any:
    return results["identities"]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_gets_its_own_twin_and_one_patch_of_it(exchanged: Any, name: str) -> None:
    assert exchanged[name]["patch"] == {"for": name, "nested": {"a": 1}, "$version": 2}
    assert exchanged[name]["further patches"] == 0
    assert exchanged[name]["twin"] == {
        "desired": {"for": name, "nested": {"a": 1}, "$version": 2},
        "reported": {"by": name, "nested": {"x": 1}, "$version": 2},
    }


@pytest.mark.parametrize("name", CLIENTS)
def test_a_service_reads_reported_properties_and_a_new_etag_after_each_change(exchanged: Any, name: str) -> None:
    reported = exchanged[name]["reported"]
    assert (reported["by"], reported["nested"], reported["$version"]) == (name, {"x": 1}, 2)
    assert set(reported["$metadata"]) == {"$lastUpdated", "by", "nested"}
    assert exchanged[name]["etag changes"]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_method_runs_on_the_called_client_only(exchanged: Any, name: str) -> None:
    assert exchanged[name]["method"] == [203, {"from": name, "echo": {"q": 1}}]
    assert exchanged[name]["methods"] == ["do it"]


def test_telemetry_keeps_its_order_properties_and_body(exchanged: Any) -> None:
    sent = [[name, PROPERTIES, f"telemetry of {name}"] for name in CLIENTS]
    assert exchanged["events"] == [*sent, ["press-1/camera", {"$.on": "frames"}, "seen"]]


def test_a_message_reaches_its_device_only(exchanged: Any) -> None:
    assert exchanged["press-2"]["message"] == ["only press-2", {"colour": "red"}]
    assert [exchanged[name]["further messages"] for name in CLIENTS] == [0, 0, 0]


def test_modules_are_not_among_the_devices(exchanged: Any) -> None:
    assert exchanged["listed"] == ["press-1", "press-2"]


def test_messages_wait_for_a_device_that_is_offline(results: Any) -> None:
    assert results["offline"] == {"received": [["first", {}], ["second", {}], ["third", {"n": "3"}]], "waiting": 2}


def test_clients_without_a_valid_credential_are_refused(results: Any) -> None:
    assert results["refusals"] == {
        "wrong key": "CredentialError",
        "unknown device": "CredentialError",
        "key of another device": "CredentialError",
        "disabled device": "CredentialError",
        "unknown authority": "ClientError",
        "expired token": "401 ErrorCode:IotHubUnauthorizedAccess",
    }


def test_one_key_can_be_replaced_while_the_other_is_in_use(results: Any) -> None:
    assert results["rotation"] == {"old primary": "CredentialError", "old etag": "412"}


def test_the_log_has_no_key_and_no_token(hub: RunningHub, results: Any) -> None:
    log = hub.log.read_text()
    keys = {key for each in hub.client().call("GET", "/devices") for key in each["authentication"]["symmetricKey"].values()}
    assert "connected client=press-1" in log
    assert len(keys) > 4
    assert not [key for key in keys if key in log]
    assert "SharedAccess" not in log
