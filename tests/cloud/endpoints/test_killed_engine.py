"""The cloud is killed between the steps of an operation; the next start completes it."""

from __future__ import annotations

from pathlib import Path

from edgewright.contracts.endpoints import Deployment, DeployRequest, UpdateRequest
from edgewright.errors import NotFoundError
from edgewright.sdk import CloudClient
from tests.support.endpoints import score, script_of, wait_until
from tests.support.running_cloud import ending, running, start

VERSION = "def init(): ...\ndef run(data): return {0}\n"


def test_a_deployment_an_update_and_a_deletion_survive_a_kill_right_after_the_request(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with ending(start(state, "--no-broker")) as cloud, CloudClient.connect(str(state)) as client:
        deployment = Deployment(**script_of(client, tmp_path, VERSION.format(1)))
        client.deploy_endpoint("durable", DeployRequest(deployment=deployment))
        cloud.kill()
    with ending(start(state, "--no-broker")) as cloud, CloudClient.connect(str(state)) as client:
        record, key = client.wait_for_endpoint("durable"), client.endpoint_keys("durable").primary
        assert score(record.scoring_uri, key) == (200, 1)
        changed = Deployment(**script_of(client, tmp_path, VERSION.format(2)))
        client.update_endpoint("durable", UpdateRequest(deployment=changed))
        cloud.kill()
        assert score(record.scoring_uri, key)[0] == 200
    with ending(start(state, "--no-broker")) as cloud, CloudClient.connect(str(state)) as client:
        client.wait_for_endpoint("durable")
        assert score(record.scoring_uri, key) == (200, 2)
        cloud.operator().send("DELETE", "/v1/endpoints/durable")
        cloud.kill()
    with running(state, "--no-broker"), CloudClient.connect(str(state)) as client:
        wait_until(lambda: is_gone(client, "durable"))
    assert not (state / "endpoints" / "durable").exists()


def is_gone(client: CloudClient, name: str) -> bool:
    try:
        client.endpoint(name)
    except NotFoundError:
        return True
    return False
