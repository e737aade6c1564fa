"""Endpoints in containers: a real cloud builds the image, a real docker engine runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewright.contracts import wire
from edgewright.contracts.endpoints import Deployment, DeployRequest, EndpointRecord, EndpointTarget, KeyName, UpdateRequest
from edgewright.contracts.environments.images import ImageRequest
from edgewright.errors import OperationError
from edgewright.sdk import CloudClient
from edgewright.serving.supervision.container import OPTIONS_VARIABLE, ContainerOptions
from edgewright.serving.supervision.service import SOCKET_VARIABLE
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.endpoints import score, under_load, wait_until
from tests.support.running_cloud import RunningCloud, running

SCRIPT = "import os\ndef init(): ...\ndef run(data): return [os.environ['LEVEL'], os.getuid()]\n"
CONTAINER = EndpointTarget.CONTAINER


@pytest.fixture(scope="module")
def engine(require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    with docker_engine(require, tmp_path_factory.mktemp("docker")) as engine:
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
