"""The served OpenAPI document is valid and describes the service."""

from __future__ import annotations

import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from cloud.http.routes import ENDPOINTS
from tests.support.running_cloud import Http, RunningCloud


@pytest.fixture(scope="module")
def document(cloud: RunningCloud) -> dict[str, Any]:
    answer = cloud.anonymous().get("/openapi.json")
    assert answer.status == 200
    document: dict[str, Any] = answer.json()
    return document


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_endpoint_is_described(document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


def test_every_operation_has_a_unique_name(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


def test_requests_and_responses_are_described(document: dict[str, Any]) -> None:
    enrol = document["paths"]["/v1/enrol"]["post"]
    assert enrol["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/EnrolRequest"}
    assert enrol["responses"]["201"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/EnrolResponse"}
    assert "certificate_pem" in document["components"]["schemas"]["EnrolResponse"]["required"]


def test_the_health_endpoint_needs_no_credential(cloud: RunningCloud) -> None:
    answer = cloud.anonymous().get("/healthz")
    assert (answer.status, answer.json()) == (200, {"status": "ok", "mqtt": "none"})


def test_metrics_are_for_operators(cloud: RunningCloud, operator: Http) -> None:
    assert cloud.anonymous().get("/metrics").status == 401
    operator.get("/v1/devices")
    answer = operator.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert re.search(r"\nedgewright_devices_online \d+\n", answer.body.decode())
    assert '\nedgewright_http_requests_total{method="GET",route="/v1/devices",status="200"} ' in answer.body.decode()


def test_an_unknown_path_is_404_with_an_error_message(operator: Http) -> None:
    answer = operator.get("/v1/nothing")
    assert (answer.status, answer.error) == (404, "GET /v1/nothing: not found; see /openapi.json")
