"""Endpoints that also answer gRPC: the same port through an update, and one line for what cannot have it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgewright.azureml.accel import client_from_service
from edgewright.contracts.endpoints import DeployedModel, Deployment, DeployRequest, EndpointTarget, UpdateRequest
from edgewright.errors import BadInputError, ConflictError
from edgewright.packing import PackOptions, pack
from edgewright.sdk import CloudClient, Webservice, Workspace
from tests.support.real_build import make_real_build
from tests.support.running_cloud import RunningCloud
from tests.support.tiny_variants import expected_scores, tiny_samples

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def deployment(client: CloudClient, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    folder = tmp_path_factory.mktemp("model")
    pack(make_real_build(folder / "build"), folder / "tiny.tar", PackOptions(name="tiny"))
    version = client.register_model("tiny", folder / "tiny.tar")
    return Deployment(models=(DeployedModel(name=version.model, version=version.version),), grpc_port=0)


def test_an_update_keeps_the_grpc_port_and_loses_no_call(
    cloud: RunningCloud, client: CloudClient, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.deploy_endpoint("grpc-service", DeployRequest(deployment=deployment))
    record = client.wait_for_endpoint("grpc-service")
    host, _, port = record.grpc_address.rpartition(":")
    assert (host, int(port)) == (HOST, record.deployment.grpc_port)

    monkeypatch.setenv("EDGEWRIGHT_CLOUD", str(cloud.state))
    x, answers, ended = tiny_samples(2), list[Any](), threading.Event()

    def call() -> None:
        with client_from_service(Webservice(Workspace(), "grpc-service")) as scoring:
            while not ended.is_set():
                answers.append(scoring.score_numpy_arrays({"x": x}, timeout=60))

    caller = threading.Thread(target=call)
    caller.start()
    changed = replace(record.deployment, variables={"LEVEL": "2"})
    client.update_endpoint("grpc-service", UpdateRequest(deployment=changed))
    updated = client.wait_for_endpoint("grpc-service")
    before = len(answers)
    while len(answers) < before + 20 and caller.is_alive():
        threading.Event().wait(0.01)
    ended.set()
    caller.join()
    assert (updated.answering, updated.grpc_address) == (2, record.grpc_address)
    assert len(answers) >= before + 20
    for answer in answers:
        np.testing.assert_allclose(answer, expected_scores(x), rtol=1e-5)


def test_a_port_of_another_endpoint_is_refused(client: CloudClient, deployment: Deployment) -> None:
    record = client.wait_for_endpoint("grpc-service")
    for taken in (record.deployment.grpc_port, int(record.scoring_uri.split(":")[2].partition("/")[0])):
        request = DeployRequest(deployment=replace(deployment, grpc_port=taken))
        with pytest.raises(ConflictError, match=f"port {taken} must be free, but endpoint grpc-service has it"):
            client.deploy_endpoint("second-service", request)


def test_a_service_without_grpc_is_one_line(
    cloud: RunningCloud, client: CloudClient, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.deploy_endpoint("plain-service", DeployRequest(deployment=replace(deployment, grpc_port=None)))
    assert client.wait_for_endpoint("plain-service").grpc_address == ""
    monkeypatch.setenv("EDGEWRIGHT_CLOUD", str(cloud.state))
    with pytest.raises(BadInputError, match="edgewright endpoints update plain-service --grpc-port 0"):
        client_from_service(Webservice(Workspace(), "plain-service"))


def test_a_container_has_no_grpc_port(deployment: Deployment) -> None:
    with pytest.raises(BadInputError, match="a gRPC port needs a model without an entry script and the target local"):
        replace(deployment, target=EndpointTarget.CONTAINER)
