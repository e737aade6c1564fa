"""No request that is derived from the document of the cloud gets a server error or an undeclared answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fuzzing import LONG, Effort, fuzz
from tests.support.running_cloud import Http, RunningCloud, running

_COUNTED = re.compile(r'edgewright_http_requests_total\{method="(\w+)",route="([^"]+)",status="(\d+)"\} \d+')


@pytest.fixture
def plain_cloud(tmp_path: Path) -> Iterator[RunningCloud]:
    """A cloud of this test's own, over plain HTTP."""
    with running(tmp_path / "state", "--no-broker", "--plain-http") as cloud:
        yield cloud


def check(cloud: RunningCloud, python: Path, effort: Effort, folder: Path, **parameters: str) -> None:
    fuzz(python, cloud.url, cloud.token, effort, folder, query_wait_s="0", **parameters)
    operator = Http(cloud.url, cloud.ca, token=cloud.token)
    document = operator.get("/openapi.json").json()
    declared = {
        (method.upper(), path, status)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for status in operation["responses"]
    }
    answered = set(_COUNTED.findall(operator.get("/metrics").body.decode()))
    assert {path for _, path, _ in answered} == set(document["paths"])
    assert answered <= declared


def test_no_request_gets_a_server_error_or_an_undeclared_answer(
    plain_cloud: RunningCloud, clients_python: Path, tmp_path: Path
) -> None:
    check(plain_cloud, clients_python, Effort(examples=2, edges=False), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3300)
@pytest.mark.parametrize("names", [{}, {"path_model": '"digits"', "path_environment": '"plain"', "path_version": '"1"'}])
def test_no_request_of_many_gets_a_server_error_or_an_undeclared_answer(
    plain_cloud: RunningCloud, clients_python: Path, tmp_path: Path, names: dict[str, str]
) -> None:
    check(plain_cloud, clients_python, LONG, tmp_path, **names)


@pytest.mark.parametrize(
    ("path", "methods"), [("/v1/endpoints/some", "DELETE, GET, HEAD, PATCH, PUT"), ("/v1/rollouts/forgive", "POST")]
)
def test_a_method_that_a_path_does_not_have_is_answered_with_those_that_it_has(
    cloud: RunningCloud, path: str, methods: str
) -> None:
    answer = cloud.operator().send("OPTIONS", path)
    assert (answer.status, answer.headers["Allow"]) == (405, methods)
