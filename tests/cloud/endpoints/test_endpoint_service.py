"""Endpoints of a real cloud: deploy with the client, score with plain HTTP, and delete without a trace."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgewright.contracts.endpoints import DeployedModel, Deployment, DeployRequest, EndpointKeys, EndpointRecord, EndpointState
from edgewright.contracts.names import PackageReference
from edgewright.errors import ConflictError, NotFoundError
from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud, running

SCRIPT = """
import os
from pathlib import Path

def init():
    global text
    text = (Path(os.environ["AZUREML_MODEL_DIR"]) / "weights.txt").read_text()

def run(data):
    return {"model": text, "body": data, "level": os.environ.get("LEVEL")}
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    with running(tmp_path_factory.mktemp("cloud") / "state", "--no-broker") as cloud:
        yield cloud
        with CloudClient.connect(str(cloud.state)) as client:
            for each in client.endpoints():
                client.delete_endpoint(each.endpoint)


@pytest.fixture(scope="module")
def client(cloud: RunningCloud) -> Iterator[CloudClient]:
    with CloudClient.connect(str(cloud.state)) as client:
        yield client


@pytest.fixture(scope="module")
def model(client: CloudClient, tmp_path_factory: pytest.TempPathFactory) -> DeployedModel:
    """A registered model of one file."""
    path = tmp_path_factory.mktemp("model") / "weights.txt"
    path.write_text("one")
    version = client.register_model("weights", path)
    return DeployedModel(name=version.model, version=version.version)


@pytest.fixture(scope="module")
def endpoint(client: CloudClient, model: DeployedModel, tmp_path_factory: pytest.TempPathFactory) -> EndpointRecord:
    """A deployed endpoint with a script."""
    return deploy(client, "my-service", tmp_path_factory.mktemp("script"), SCRIPT, models=(model,), variables={"LEVEL": "2"})


def deploy(client: CloudClient, name: str, folder: Path, script: str, **fields: object) -> EndpointRecord:
    """Deploy a script, and wait until it is ready."""
    path = folder / "score.py"
    path.write_text(script)
    entry_script, files = client.push_script(path)
    deployment = Deployment(entry_script=entry_script, files=files, **fields)  # type: ignore[arg-type]
    client.deploy_endpoint(name, DeployRequest(deployment=deployment))
    return client.wait_for_endpoint(name)


def score(record: EndpointRecord, key: str | None, body: bytes = b"{}") -> tuple[int, object]:
    """Send one request; return the status and the answer."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(record.scoring_uri, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_deployed_script_reads_its_model_and_answers_with_either_key(client: CloudClient, endpoint: EndpointRecord) -> None:
    keys: EndpointKeys = client.endpoint_keys("my-service")
    assert endpoint.state is EndpointState.HEALTHY
    expected = 200, {"model": "one", "body": '{"data": 1}', "level": "2"}
    assert score(endpoint, keys.primary, b'{"data": 1}') == expected
    assert score(endpoint, keys.secondary, b'{"data": 1}') == expected


@pytest.mark.parametrize("key", [pytest.param(None, id="without a key"), pytest.param("x" * 43, id="another key")])
def test_a_request_without_a_key_of_the_endpoint_gets_401(endpoint: EndpointRecord, key: str | None) -> None:
    assert score(endpoint, key)[0] == 401


def test_a_taken_name_is_refused(client: CloudClient, endpoint: EndpointRecord) -> None:
    with pytest.raises(ConflictError, match="an endpoint is called my-service: choose another name, update it, or deploy with"):
        client.deploy_endpoint("my-service", DeployRequest(deployment=endpoint.deployment))


def test_a_model_version_of_an_endpoint_cannot_be_deleted(
    client: CloudClient, endpoint: EndpointRecord, model: DeployedModel
) -> None:
    version = client.model_version(PackageReference(model.name, model.version))
    expected = "weights:1 must not be deployed, but endpoint my-service has it: update or delete the endpoint first"
    with pytest.raises(ConflictError, match=expected):
        client.delete_version(version)


def test_a_deleted_endpoint_leaves_no_process_no_file_and_no_listener(
    client: CloudClient, cloud: RunningCloud, tmp_path: Path
) -> None:
    record = deploy(client, "short-life", tmp_path, "def init(): ...\ndef run(data): return 1\n")
    folder = cloud.state / "endpoints" / "short-life"
    assert processes_of(folder)
    client.delete_endpoint("short-life")
    assert not folder.exists()
    assert processes_of(folder) == []
    with pytest.raises(urllib.error.URLError, match="refused"):
        score(record, None)
    with pytest.raises(NotFoundError, match="no endpoint is called 'short-life'"):
        client.endpoint("short-life")


def processes_of(folder: Path) -> list[int]:
    """Return the processes whose command line names a folder or a file in it."""
    found = psutil.process_iter(["cmdline"])
    return [each.pid for each in found if any(word.startswith(str(folder)) for word in each.info["cmdline"] or [])]
