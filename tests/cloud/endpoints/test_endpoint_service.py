"""Endpoints of a real cloud: deploy with the client, score with plain HTTP, and delete without a trace."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import psutil
import pytest
import urllib3
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from cloud.state.directory import trust
from edgewright.contracts.endpoints import (
    DeployedModel,
    Deployment,
    DeployRequest,
    EndpointAuth,
    EndpointKeys,
    EndpointRecord,
    EndpointState,
    KeyName,
)
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.models.registration import Framework, Registration
from edgewright.contracts.names import PackageReference
from edgewright.contracts.oci import OciLayout, Platform
from edgewright.contracts.package import write_package
from edgewright.contracts.signing import generate_key, public_pem
from edgewright.errors import ConflictError, NotFoundError
from edgewright.sdk import CloudClient
from edgewright.serving.supervision.service import ServiceFolder, ServiceState, ServiceStatus
from tests.support.endpoints import deploy, processes_of, score, wait_until
from tests.support.real_build import make_real_build
from tests.support.running_cloud import RunningCloud

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


def test_a_deployed_script_reads_its_model_and_answers_with_either_key(client: CloudClient, endpoint: EndpointRecord) -> None:
    keys: EndpointKeys = client.endpoint_keys("my-service")
    assert endpoint.state is EndpointState.HEALTHY
    expected = 200, {"model": "one", "body": '{"data": 1}', "level": "2"}
    assert score(endpoint.scoring_uri, keys.primary, b'{"data": 1}') == expected
    assert score(endpoint.scoring_uri, keys.secondary, b'{"data": 1}') == expected


def test_a_token_is_accepted_until_the_primary_key_is_replaced(client: CloudClient, endpoint: EndpointRecord) -> None:
    token = client.endpoint_token("my-service", valid_s=60).token
    assert score(endpoint.scoring_uri, token)[0] == 200
    new_key = client.regenerate_key("my-service", KeyName.PRIMARY).primary
    new_token = client.endpoint_token("my-service").token  # signed with a key that the server has not used yet
    assert score(endpoint.scoring_uri, new_token)[0] == 200
    assert score(endpoint.scoring_uri, new_key)[0] == 200
    assert score(endpoint.scoring_uri, token)[0] == 401


@pytest.mark.parametrize("key", [pytest.param(None, id="without a key"), pytest.param("x" * 43, id="another key")])
def test_a_request_without_a_key_of_the_endpoint_gets_401(endpoint: EndpointRecord, key: str | None) -> None:
    assert score(endpoint.scoring_uri, key)[0] == 401


def test_a_taken_name_is_refused(client: CloudClient, endpoint: EndpointRecord) -> None:
    with pytest.raises(
        ConflictError, match="an endpoint is called my-service already: choose another name, update it, or deploy with"
    ):
        client.deploy_endpoint("my-service", DeployRequest(deployment=endpoint.deployment))


def test_a_model_version_of_an_endpoint_cannot_be_deleted(
    client: CloudClient, endpoint: EndpointRecord, model: DeployedModel
) -> None:
    version = client.model_version(PackageReference(model.name, model.version))
    expected = "weights:1 must not be deployed, but endpoint my-service has it: update or delete the endpoint first"
    with pytest.raises(ConflictError, match=expected):
        client.delete_version(version)


def test_the_log_names_packages_of_the_environment_that_this_machine_lacks(client: CloudClient, tmp_path: Path) -> None:
    packages = ("no-such-package-of-anyone==1", "pytest<1", "pytest>=1", "azureml-defaults")
    client.create_environment(Environment(name="Other", pip_packages=packages, variables={"LEVEL": "7"}))
    script = "import os\ndef init(): ...\ndef run(data): return os.environ['LEVEL']\n"
    record = deploy(client, "lacking", tmp_path, script, environment="Other")
    assert score(record.scoring_uri, client.endpoint_keys("lacking").primary) == (200, "7")
    [line] = [each for each in client.endpoint_logs("lacking") if each.startswith("warning:")]
    assert line == (
        "warning: the target local installs no packages of environment Other:1: no-such-package-of-anyone==1 (none here), "
        f"pytest<1 ({pytest.__version__} here); use the target container"
    )
    client.delete_endpoint("lacking")


def test_a_scikit_learn_model_is_served_without_code(client: CloudClient, tmp_path: Path) -> None:
    samples, labels = load_iris(return_X_y=True)
    classifier = LogisticRegression(max_iter=500).fit(samples, labels)
    joblib.dump(classifier, tmp_path / "iris.pkl")
    version = client.register_model("iris", tmp_path / "iris.pkl", Registration(framework=Framework.SKLEARN))
    deployment = Deployment(models=(DeployedModel(name="iris", version=version.version),), trust=True)
    client.deploy_endpoint("iris-service", DeployRequest(deployment=deployment))
    record = client.wait_for_endpoint("iris-service")
    status, answer = score(
        record.scoring_uri, client.endpoint_keys("iris-service").primary, json.dumps({"data": samples[::50].tolist()}).encode()
    )
    assert (status, answer["result"]) == (200, classifier.predict(samples[::50]).tolist()), answer


def test_a_published_package_is_served(client: CloudClient, cloud: RunningCloud, tmp_path: Path) -> None:
    build = make_real_build(tmp_path / "digits")
    layout = OciLayout.create(tmp_path / "layout")
    platforms = {"fp32": (Platform(os="linux", architecture="amd64"),)}
    write_package(build, layout, name="digits", profiles={"fp32": ("generic-x86-64",)}, platforms=platforms)
    key = generate_key()
    (tmp_path / "key.pub").write_text(public_pem(key.public_key()))
    trust(cloud.state, tmp_path / "key.pub")
    version = client.publish(layout.path, key)
    deployment = Deployment(models=(DeployedModel(name="digits", version=version.version),), auth=EndpointAuth.OFF)
    client.deploy_endpoint("digits-service", DeployRequest(deployment=deployment))
    record = client.wait_for_endpoint("digits-service")
    described = urllib3.request("GET", record.swagger_uri.replace("swagger.json", "v2/models/digits-service")).json()
    assert described["name"] == "digits-service"


def test_a_deleted_endpoint_leaves_no_process_no_file_and_no_listener(
    client: CloudClient, cloud: RunningCloud, tmp_path: Path
) -> None:
    record = deploy(client, "short-life", tmp_path, "def init(): ...\ndef run(data): return 1\n")
    folder = cloud.state / "endpoints" / "short-life"
    assert processes_of(folder)
    client.delete_endpoint("short-life")
    assert not folder.exists()
    assert processes_of(folder) == []
    with pytest.raises(urllib3.exceptions.NewConnectionError, match="refused"):
        score(record.scoring_uri, None)
    with pytest.raises(NotFoundError, match="no endpoint is called 'short-life'"):
        client.endpoint("short-life")


def test_a_killed_supervisor_is_started_again_on_the_same_address(
    client: CloudClient, cloud: RunningCloud, tmp_path: Path
) -> None:
    record = deploy(client, "twice", tmp_path, "import os\ndef init(): ...\ndef run(data): return os.getpid()\n")
    key = client.endpoint_keys("twice").primary
    _, before = score(record.scoring_uri, key)
    folder = ServiceFolder(cloud.state / "endpoints" / "twice")
    killed = running_status(folder)
    psutil.Process(killed.pid).kill()
    wait_until(lambda: running_status(folder).pid != killed.pid and running_status(folder).state is ServiceState.RUNNING)
    assert score(record.scoring_uri, key)[0] == 200
    assert score(record.scoring_uri, key)[1] != before
    wait_until(lambda: before not in [process.pid for process in processes_of(folder.path)])


def running_status(folder: ServiceFolder) -> ServiceStatus:
    status = folder.status()
    assert status is not None
    return status
