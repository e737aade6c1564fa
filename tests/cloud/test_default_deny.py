"""Every route of the cloud needs a credential, unless it is listed here; a new route is found in the table of routes."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.routing import Route

from cloud.app import create
from cloud.auth import Access
from cloud.http.routes import ENDPOINTS
from tests.support.running_cloud import EnrolledDevice, Http, RunningCloud

PUBLIC = {
    ("GET", "/"),
    ("GET", "/console/{file}"),
    ("GET", "/healthz"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/ca"),
    ("POST", "/v1/enrol"),
    ("GET", "/v1/renew"),
    ("POST", "/v1/renew"),
}
FOR_DEVICES = {("GET", "/v1/device/desired"), ("POST", "/v1/device/reported"), ("POST", "/v1/device/telemetry")} | {
    ("POST", "/v1/device/certificate"),
    ("POST", "/v1/device/benchmarks"),
    ("POST", "/v1/device/benchmarks/claim"),
    ("POST", "/v1/device/benchmark-jobs/{job}/start"),
    ("POST", "/v1/device/benchmark-jobs/{job}/progress"),
}
ROUTES = [(endpoint.method, endpoint.path) for endpoint in ENDPOINTS]


def path_of(route: str) -> str:
    """Return a path of a route, with names that exist nowhere."""
    return re.sub(r"{digest}", "sha256:" + "0" * 64, re.sub(r"{(?!digest)\w+(:\w+)?}", "1", route))


def statuses(http: Http, routes: list[tuple[str, str]], headers: dict[str, str] | None = None) -> dict[tuple[str, str], int]:
    return {(method, route): http.send(method, path_of(route), b"{}", headers).status for method, route in routes}


@pytest.fixture(scope="module")
def device(cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> EnrolledDevice:
    return cloud.enrol("denied", tmp_path_factory.mktemp("denied"))


def test_the_service_has_no_route_besides_the_table() -> None:
    routes = [route for route in create(cast(Any, None)).routes if isinstance(route, Route)]
    assert len(routes) == len(create(cast(Any, None)).routes)
    assert sorted((method, route.path) for route in routes for method in (route.methods or set()) - {"HEAD"}) == sorted(ROUTES)


def test_every_route_but_the_public_ones_is_refused_without_a_credential(cloud: RunningCloud) -> None:
    answered = statuses(cloud.anonymous(), ROUTES)
    assert {route for route, status in answered.items() if status != 401} == PUBLIC


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer another-token-0123456789",
        "Bearer ",
        "Basic " + base64.b64encode(b"operator:another").decode(),
        "Basic " + base64.b64encode(b"operator:").decode(),
        "Digest x",
    ],
)
def test_every_route_is_refused_with_a_wrong_credential(cloud: RunningCloud, authorization: str) -> None:
    assert set(statuses(cloud.anonymous(), ROUTES, {"Authorization": authorization}).values()) == {401}


def test_a_device_gets_only_what_is_for_devices(device: EnrolledDevice) -> None:
    shared = {(each.method, each.path) for each in ENDPOINTS if each.access is Access.DEVICE_OR_OPERATOR}
    assert {path for _, path in shared if not path.startswith("/v2/")} == set()
    answered = statuses(device.http, ROUTES)
    assert {route for route, status in answered.items() if status != 403} == PUBLIC | FOR_DEVICES | shared


def test_an_operator_gets_nothing_that_is_for_devices(cloud: RunningCloud) -> None:
    assert set(statuses(cloud.operator(), sorted(FOR_DEVICES)).values()) == {403}


def test_every_route_is_refused_to_a_revoked_device(cloud: RunningCloud, tmp_path: Path) -> None:
    revoked = cloud.enrol("dismissed-from-all", tmp_path)
    cloud.operator().post("/v1/devices/dismissed-from-all/revoke")
    assert set(statuses(revoked.http, ROUTES).values()) == {403}
