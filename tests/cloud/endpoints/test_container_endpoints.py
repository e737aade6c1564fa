"""Endpoints in containers: a real cloud builds the image, a real docker engine runs it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgewright.contracts import wire
from edgewright.contracts.endpoints import (
    Deployment,
    DeployRequest,
    EndpointRecord,
    EndpointState,
    EndpointTarget,
    KeyName,
    UpdateRequest,
)
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.environments.images import ImageRequest
from edgewright.errors import OperationError, UnreachableError
from edgewright.sdk import CloudClient, InferenceConfig, Model, Workspace
from edgewright.sdk import Environment as SdkEnvironment
from edgewright.serving.supervision.container import OPTIONS_VARIABLE, ContainerOptions
from edgewright.serving.supervision.service import SOCKET_VARIABLE
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.endpoints import score, script_of, under_load, wait_until
from tests.support.running_cloud import RunningCloud, running

SCRIPT = "import os\ndef init(): ...\ndef run(data): return [os.environ['LEVEL'], os.getuid()]\n"
CONTAINER = EndpointTarget.CONTAINER


@pytest.fixture(scope="module")
def engine(require: Callable[[str], Path]) -> Iterator[DockerEngine]:
    with docker_engine(require) as engine:
        yield engine


@pytest.fixture(scope="module")
def cloud(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A cloud that uses the engine."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DOCKER_HOST", engine.host)
        with running(tmp_path_factory.mktemp("cloud") / "state", "--no-broker") as cloud:
            yield cloud
            with CloudClient.connect(str(cloud.state)) as client:
                for each in client.endpoints():
                    client.delete_endpoint(each.endpoint)


@pytest.fixture(scope="module")
def image(client: CloudClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an image that the cloud has built."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "score.py").write_text(SCRIPT)
    record = client.build_image(ImageRequest(name="level-image"), script=Path("score.py"), source_directory=folder)
    return client.image_location(client.wait_for_image(record))


@pytest.fixture(scope="module")
def endpoint(client: CloudClient, image: str) -> EndpointRecord:
    """An endpoint in a container with limits."""
    deployment = Deployment(target=CONTAINER, image=image, variables={"LEVEL": "1"}, cpu=0.5, memory_gb=0.5)
    client.deploy_endpoint("boxed", DeployRequest(deployment=deployment))
    return client.wait_for_endpoint("boxed")


def containers(engine: DockerEngine) -> list[str]:
    return engine.run("ps", "--all", "--quiet").split()


def test_an_image_of_the_cloud_answers_with_a_key_within_its_limits(
    client: CloudClient, engine: DockerEngine, endpoint: EndpointRecord
) -> None:
    assert score(endpoint.scoring_uri, client.endpoint_keys("boxed").primary) == (200, ["1", 65534])
    assert score(endpoint.scoring_uri, "x" * 43)[0] == 401
    [container] = containers(engine)
    limits = json.loads(engine.run("inspect", "--format", "{{json .HostConfig}}", container))
    assert (limits["NanoCpus"], limits["Memory"]) == (500_000_000, 500_000_000)
    assert (limits["ReadonlyRootfs"], limits["CapDrop"], limits["SecurityOpt"]) == (True, ["ALL"], ["no-new-privileges"])


def test_no_request_fails_during_an_update_and_a_rotation_of_keys(
    client: CloudClient, engine: DockerEngine, endpoint: EndpointRecord, image: str
) -> None:
    with under_load(endpoint.scoring_uri, client.endpoint_keys("boxed").primary) as load:
        changed = Deployment(target=CONTAINER, image=image, variables={"LEVEL": "2"})
        client.update_endpoint("boxed", UpdateRequest(deployment=changed))
        updated = client.wait_for_endpoint("boxed")
        load.wait_for(["2", 65534])
        load.key = client.endpoint_keys("boxed").secondary
        load.wait_for_more()
        load.key = client.regenerate_key("boxed", KeyName.PRIMARY).primary
        load.wait_for_more()
    assert load.failures == []
    assert updated.scoring_uri == endpoint.scoring_uri
    wait_until(lambda: len(containers(engine)) == 1)


def test_the_cloud_builds_the_image_of_a_script_and_of_its_change(client: CloudClient, tmp_path: Path) -> None:
    script = tmp_path / "score.py"

    def deployment(text: str) -> Deployment:
        script.write_text(text)
        name, files = client.push_script(script, None)
        return Deployment(target=CONTAINER, entry_script=name, files=files, variables={"LEVEL": "3"})

    client.deploy_endpoint("built", DeployRequest(deployment=deployment(SCRIPT)))
    first = client.wait_for_endpoint("built")
    key = client.endpoint_keys("built").primary
    assert score(first.scoring_uri, key) == (200, ["3", 65534])
    client.update_endpoint("built", UpdateRequest(deployment=deployment(SCRIPT.replace("os.getuid()", "'changed'"))))
    client.wait_for_endpoint("built")
    assert score(first.scoring_uri, key) == (200, ["3", "changed"])
    client.update_endpoint("built", UpdateRequest(deployment=deployment(SCRIPT)))
    client.wait_for_endpoint("built")
    assert score(first.scoring_uri, key) == (200, ["3", 65534])
    builds = client.image_versions("built-endpoint")
    assert [build.version for build in builds] == [1, 2]  # the third deployment has the content of the first
    assert builds[1].new_bytes < 100_000  # the script's layer, and the documents of the image
    client.delete_endpoint("built")


LISTING_13 = """
from edgewright.azureml.core.webservice import AciWebservice
deployment_config = AciWebservice.deploy_configuration(cpu_cores=1, memory_gb=1)
service = Model.deploy(ws, 'my-aci-service', [model], inference_config, deployment_config)
service.wait_for_deployment(show_output=True)
print(service.state)
"""
READING = (
    "import os\ndef init(): ...\ndef run(data): return open(os.path.join(os.environ['AZUREML_MODEL_DIR'], 'weights')).read()\n"
)


def test_listing_13_of_the_azure_chapter_runs_in_a_container(
    cloud: RunningCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("score.py").write_text(READING)
    Path("weights").write_text("w1")
    workspace = Workspace(cloud=str(cloud.state))
    names: dict[str, Any] = {
        "Model": Model,
        "ws": workspace,
        "model": Model.register(workspace, model_name="boxed-model", model_path="weights"),
        "inference_config": InferenceConfig(entry_script="score.py", environment=SdkEnvironment("PlainEnv")),
    }
    exec(LISTING_13, names)
    assert capsys.readouterr().out.splitlines()[-1] == "Healthy"
    service = names["service"]
    assert score(service.scoring_uri, service.get_keys()[0]) == (200, "w1")
    token, refresh_after = service.get_token()
    assert score(service.scoring_uri, token) == (200, "w1")
    assert refresh_after > datetime.now(UTC)
    service.delete()


def test_an_image_that_cannot_be_built_ends_in_failed(client: CloudClient, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    name, files = client.push_script(tmp_path / "score.py", None)
    version = client.create_environment(Environment(name="Unsolvable", pip_packages=("no-such-package-of-anyone==1",)))
    deployment = Deployment(target=CONTAINER, entry_script=name, files=files, environment=f"{version.name}:{version.version}")
    client.deploy_endpoint("unbuilt", DeployRequest(deployment=deployment))
    with pytest.raises(OperationError, match=r"image unbuilt-endpoint:1 was not built: .*no-such-package-of-anyone"):
        client.wait_for_endpoint("unbuilt")


def test_a_build_that_ran_when_the_cloud_was_killed_is_completed_for_its_endpoint(
    cloud: RunningCloud, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    state = tmp_path / "state"
    with running(state, "--no-broker"):
        pass
    for made in ("registry/blobs", "images/cache"):  # the layers of the server, which the other cloud has made
        shutil.copytree(cloud.state / made, state / made, dirs_exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as index:  # a package index that never answers
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        with running(state, "--no-broker") as killed, CloudClient.connect(str(state)) as client:
            client.create_environment(Environment(name="slow", pip_packages=("anything",), pip_index_url=url))
            deployment = Deployment(target=CONTAINER, environment="slow", **script_of(client, tmp_path, SCRIPT))
            client.deploy_endpoint("durable", DeployRequest(deployment=deployment))
            index.accept()[0].close()  # the build has begun to ask for packages
            wait_until(lambda: client.endpoint("durable").reason == "image durable-endpoint:1 is being built")
            assert client.endpoint("durable").state is EndpointState.TRANSITIONING
            killed.kill()
    with running(state, "--no-broker"), CloudClient.connect(str(state)) as client:
        with pytest.raises(OperationError, match="image durable-endpoint:1 was not built: .*anything"):
            client.wait_for_endpoint("durable")
        assert len(client.image_versions("durable-endpoint")) == 1
        client.delete_endpoint("durable")


def test_a_container_that_is_killed_is_replaced(client: CloudClient, engine: DockerEngine, endpoint: EndpointRecord) -> None:
    [killed] = containers(engine)
    engine.run("kill", killed)
    wait_until(lambda: len(containers(engine)) == 1 and containers(engine) != [killed])
    assert score(endpoint.scoring_uri, client.endpoint_keys("boxed").primary)[0] == 200


def test_a_deleted_endpoint_leaves_no_container(client: CloudClient, engine: DockerEngine, endpoint: EndpointRecord) -> None:
    assert containers(engine)
    client.delete_endpoint("boxed")
    assert containers(engine) == []


def test_an_image_that_does_not_exist_ends_in_failed(client: CloudClient, image: str) -> None:
    absent = image.rpartition(":")[0] + ":99"
    deployment = Deployment(target=CONTAINER, image=absent, init_timeout_s=5)
    client.deploy_endpoint("absent", DeployRequest(deployment=deployment))
    with pytest.raises(OperationError, match=f"the image {absent} must exist"):
        client.wait_for_endpoint("absent")


def test_an_endpoint_in_a_container_is_refused_without_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    with running(tmp_path / "state", "--no-broker") as cloud, CloudClient.connect(str(cloud.state)) as client:
        with pytest.raises(UnreachableError, match="the container engine does not answer: .*; start it"):
            client.deploy_endpoint("boxed", DeployRequest(deployment=Deployment(target=CONTAINER, image="registry.example/x:1")))
        assert client.endpoints() == ()


def test_an_engine_that_does_not_answer_is_one_line_and_exit_code_3(tmp_path: Path) -> None:
    options = ContainerOptions(service=str(tmp_path), image="some/image", command=())
    environment = {
        **os.environ,
        OPTIONS_VARIABLE: wire.encode(options).decode(),
        SOCKET_VARIABLE: "0",
        "DOCKER_HOST": f"unix://{tmp_path}/absent.sock",
    }
    command = [sys.executable, "-m", "edgewright.serving.supervision.container"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(30) == 3  # its standard input stays open, as that of a supervised process
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == ["the container engine does not answer"]
