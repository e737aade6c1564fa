"""A device manages the identities of its own modules with its own token, as the runtime of IoT Edge does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from edgewright.contracts.iothub import sas
from tests.support.running_hub import RunningHub, running_hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path) as hub:
        yield hub


def call(hub: RunningHub, key: str, method: str, path: str, *, token_of: str = "one") -> tuple[int, dict[str, object]]:
    address = hub.client().address
    token = sas.create(f"{address.hostname}/devices/{token_of}", key, int(time.time()) + 600)
    url = f"https://{address.https_host}:{address.https_port}{path}?api-version=2021-04-12"
    with urllib3.PoolManager(ca_certs=str(hub.ca)) as pool:
        answer = pool.request(method, url, body=b"{}" if method == "PUT" else None, headers={"Authorization": token})
    return answer.status, json.loads(answer.data or b"{}")


def test_a_device_manages_its_own_modules_and_nothing_else(hub: RunningHub) -> None:
    devices = [hub.client().call("PUT", f"/devices/{name}", {"deviceId": name}) for name in ("one", "two")]
    own, other = (each["authentication"]["symmetricKey"]["primaryKey"] for each in devices)
    status, made = call(hub, own, "PUT", "/devices/one/modules/camera")
    assert status == 200
    assert call(hub, own, "GET", "/devices/one/modules/camera") == (200, made)
    assert made["authentication"]["symmetricKey"]["primaryKey"] not in (own, other)  # type: ignore[index]
    assert call(hub, own, "GET", "/devices/two/modules/camera")[0] == 401
    assert call(hub, other, "GET", "/devices/one/modules/camera")[0] == 401
    assert call(hub, other, "GET", "/devices/one/modules/camera", token_of="two")[0] == 401
    assert call(hub, own, "GET", "/devices/one")[0] == 401
    assert call(hub, own, "GET", "/twins/one/modules/camera")[0] == 401
    assert call(hub, own, "DELETE", "/devices/one/modules/camera")[0] == 204
