"""Deployments that cannot work: each is refused, or ends in Failed, with one line that has the cause."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from edgewright.contracts.endpoints import DeployedModel, Deployment, DeployRequest, EndpointRecord, EndpointState, UpdateRequest
from edgewright.contracts.models.registration import SourceFile
from edgewright.errors import BadInputError, ConflictError, EdgewrightError, NotFoundError, OperationError
from edgewright.sdk import CloudClient
from tests.support.endpoints import deploy, score, script_of

RUN = "def run(data): return 1\n"
IMPORTABLE = "files/score.py must be importable"
SCRIPTS = {
    "syntax-error": ("def init(:\n", "files/score.py must be importable, but it raised SyntaxError in line 1: invalid syntax"),
    "no-run": ("def init(): ...\n", "files/score.py must define run(), but it does not"),
    "init-raises": (
        f"def init():\n    raise ValueError('no weights')\n{RUN}",
        "init() of score.py must succeed, but it raised ValueError in line 2: no weights",
    ),
    "init-hangs": (
        f"def init():\n    import time\n    time.sleep(600)\n{RUN}",
        "init() of score.py must end within 3 s, but it did not",
    ),
}


@pytest.fixture(scope="module")
def failed(client: CloudClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, EndpointRecord]:
    """The records of all bad scripts, deployed at the same time."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, (script, _) in SCRIPTS.items():
        deployment = Deployment(**script_of(client, folder, script), init_timeout_s=3)
        client.deploy_endpoint(name, DeployRequest(deployment=deployment))
    return {name: list(client.watch_endpoint(name, timeout_s=60))[-1] for name in SCRIPTS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_that_cannot_start_ends_in_failed_with_its_cause(failed: dict[str, EndpointRecord], name: str) -> None:
    assert (failed[name].state, failed[name].answering) == (EndpointState.FAILED, None)
    assert failed[name].reason == SCRIPTS[name][1]


def test_the_log_has_the_whole_traceback(client: CloudClient, failed: dict[str, EndpointRecord]) -> None:
    text = "\n".join(client.endpoint_logs("init-raises"))
    assert "Traceback (most recent call last)" in text
    assert "ValueError: no weights" in text


def test_a_failed_endpoint_answers_503_and_waiting_for_it_raises_its_cause(
    client: CloudClient, failed: dict[str, EndpointRecord]
) -> None:
    answer = score(failed["init-raises"].scoring_uri, None)
    assert answer == (503, {"error": "the service failed to start: its log has the reason"})
    with pytest.raises(OperationError, match=re.escape(SCRIPTS["init-raises"][1])):
        client.wait_for_endpoint("init-raises")


def test_a_failed_update_leaves_the_earlier_deployment_answering(client: CloudClient, tmp_path: Path) -> None:
    record = deploy(client, "careful", tmp_path, f"def init(): ...\n{RUN}")
    broken = Deployment(**script_of(client, tmp_path, SCRIPTS["init-raises"][0]), init_timeout_s=1)
    client.update_endpoint("careful", UpdateRequest(deployment=broken))
    with pytest.raises(OperationError, match="no weights; deployment 1 still answers"):
        client.wait_for_endpoint("careful")
    assert score(record.scoring_uri, client.endpoint_keys("careful").primary) == (200, 1)


@pytest.mark.parametrize(
    "name", ["ab", "a" * 33, "Upper", "9digit", "-dash", "dash-", "under_score", "dot.ted", "a b", "", "ü-umlaut", "a/b"]
)
def test_a_name_that_azure_refuses_is_refused(client: CloudClient, name: str) -> None:
    with pytest.raises(BadInputError, match="an endpoint's name must have 3 to 32 lower-case letters, digits and '-'"):
        client.deploy_endpoint(name, DeployRequest(deployment=Deployment(models=(DeployedModel(name="m", version=1),))))


UNKNOWN_FILE = SourceFile(path="score.py", digest=f"sha256:{'0' * 64}", size=1)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        pytest.param(
            {"models": (DeployedModel(name="absent", version=1),)}, NotFoundError, "no model is called 'absent'", id="model"
        ),
        pytest.param(
            {"entry_script": "score.py", "files": (UNKNOWN_FILE,)},
            ConflictError,
            "1 files must be pushed to endpoint-files first, such as score.py",
            id="file that was not pushed",
        ),
    ],
)
def test_content_that_the_cloud_lacks_is_refused(
    client: CloudClient, fields: dict[str, Any], error: type[EdgewrightError], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        client.deploy_endpoint("content", DeployRequest(deployment=Deployment(**fields)))
    assert "content" not in {each.endpoint for each in client.endpoints()}


def test_a_port_of_another_program_is_refused_and_that_of_an_endpoint_by_its_name(
    client: CloudClient, failed: dict[str, EndpointRecord], tmp_path: Path
) -> None:
    fields = script_of(client, tmp_path, f"def init(): ...\n{RUN}")
    taken = int(failed["no-run"].scoring_uri.rsplit(":", 1)[1].partition("/")[0])
    with socket.create_server(("127.0.0.1", 0)) as other:
        foreign = other.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {foreign} of 127.0.0.1 must be free, but it cannot be used"):
            client.deploy_endpoint("ports", DeployRequest(deployment=Deployment(**fields, port=foreign)))
    with pytest.raises(ConflictError, match=f"port {taken} must be free, but endpoint no-run has it"):
        client.deploy_endpoint("ports", DeployRequest(deployment=Deployment(**fields, port=taken)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({}, "must have a model, an entry script or an image", id="nothing"),
        pytest.param({"entry_script": "score.py"}, "a Python file of the sent folder, not 'score.py'", id="script"),
        pytest.param(
            {"models": (DeployedModel(name="a", version=1), DeployedModel(name="b", version=1))},
            "without an entry script must have one model, not 2",
            id="two models without code",
        ),
        pytest.param(
            {"models": (DeployedModel(name="a", version=1), DeployedModel(name="a", version=2))},
            "must have one version of each model",
            id="two versions",
        ),
        pytest.param({"image": "some/image"}, "an image must have the target container, not local", id="image"),
        pytest.param({"models": (DeployedModel(name="a", version=1),), "port": 0}, "port must be 1 to 65535, not 0", id="port"),
        pytest.param({"models": (DeployedModel(name="a", version=1),), "cpu": 0.0}, "cpu must be 0.01 to 1024, not 0", id="cpu"),
        pytest.param(
            {"models": (DeployedModel(name="a", version=1),), "variables": {"A=B": "1"}}, "a variable must have a name", id="name"
        ),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(message)):
        Deployment(**fields)


def test_a_script_that_is_missing_is_refused(client: CloudClient, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"score.py: no such file; an entry script is a Python file"):
        client.push_script(tmp_path / "score.py")
    (tmp_path / "source").mkdir()
    (tmp_path / "outside.py").write_text(RUN)
    with pytest.raises(BadInputError, match="the entry script must be in the folder"):
        client.push_script(tmp_path / "outside.py", tmp_path / "source")
