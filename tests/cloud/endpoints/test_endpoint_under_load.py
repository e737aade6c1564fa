"""No request fails during an update, a rotation of keys, the end of a worker, and a kill and restart of the cloud."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import urllib3
from click.testing import CliRunner

from edgewright.cli import main
from edgewright.contracts.endpoints import EndpointRecord, EndpointState, KeyName, UpdateRequest
from edgewright.sdk import CloudClient
from tests.support.endpoints import deploy, score, script_of, under_load, wait_until
from tests.support.running_cloud import RunningCloud, ending, running, start

VERSION = "import os\ndef init(): ...\ndef run(data): return {0}\n"
PID = VERSION.format("os.getpid()")


@pytest.fixture(scope="module")
def endpoint(client: CloudClient, tmp_path_factory: pytest.TempPathFactory) -> EndpointRecord:
    return deploy(client, "steady", tmp_path_factory.mktemp("script"), VERSION.format(0), workers=2)


def test_no_request_fails_during_an_update(client: CloudClient, endpoint: EndpointRecord, tmp_path: Path) -> None:
    with under_load(endpoint.scoring_uri, client.endpoint_keys("steady").primary) as load:
        for number in (1, 2):
            changed = client.endpoint("steady").deployment
            fields = script_of(client, tmp_path, VERSION.format(number))
            client.update_endpoint("steady", UpdateRequest(deployment=type(changed)(workers=2, **fields)))
            updated = client.wait_for_endpoint("steady")
            load.wait_for(number)
            load.wait_for_more()
    assert load.failures == []
    assert (updated.scoring_uri, updated.answering) == (endpoint.scoring_uri, updated.generation)
    assert set(load.answers) == {0, 1, 2}


def test_no_request_fails_during_a_rotation_of_both_keys(client: CloudClient, endpoint: EndpointRecord) -> None:
    before = client.endpoint_keys("steady")
    with under_load(endpoint.scoring_uri, before.primary) as load:
        load.key = before.secondary
        load.wait_for_more()
        load.key = client.regenerate_key("steady", KeyName.PRIMARY).primary  # used at once
        load.wait_for_more()
        after = client.regenerate_key("steady", KeyName.SECONDARY)
        load.wait_for_more()
    assert load.failures == []
    assert {after.primary, after.secondary} & {before.primary, before.secondary} == set()
    assert score(endpoint.scoring_uri, after.secondary)[0] == 200


def test_a_killed_worker_costs_at_most_its_own_request(client: CloudClient, tmp_path: Path) -> None:
    record = deploy(client, "workers", tmp_path, PID, workers=2)
    with under_load(record.scoring_uri, client.endpoint_keys("workers").primary) as load:
        load.wait_for_more()
        killed = load.answers[-1]
        os.kill(killed, 9)
        load.wait_for_more(200)
    assert len(load.failures) <= 1
    assert killed not in load.answers[-50:]
    assert client.endpoint("workers").state is EndpointState.HEALTHY
    client.delete_endpoint("workers")


def test_no_request_fails_while_the_cloud_is_killed_and_started_again(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with ending(start(state, "--no-broker")) as cloud, CloudClient.connect(str(state)) as client:
        record = deploy(client, "survivor", tmp_path, PID)
        key = client.endpoint_keys("survivor").primary
        with under_load(record.scoring_uri, key) as load:
            cloud.kill()
            load.wait_for_more()
            with running(state, "--no-broker") as restarted:
                adopted = _healthy(restarted)
                load.wait_for_more()
                with CloudClient.connect(str(state)) as again:
                    fields = script_of(again, tmp_path, VERSION.format("'new'"))
                    again.update_endpoint("survivor", UpdateRequest(deployment=type(record.deployment)(**fields)))
                    load.wait_for("new")
    assert load.failures == []
    assert len(set(load.answers) - {"new"}) == 1, "the process of the script has not changed with the cloud"
    assert adopted.scoring_uri == record.scoring_uri
    shown = cloud_command("status", state)
    assert shown.splitlines() == [
        f"the cloud of {state} does not run",
        f"endpoint survivor is running at {record.scoring_uri.removesuffix('/score')}",
    ]
    assert "endpoint survivor continues at" in cloud_command("down", state)
    assert cloud_command("down", state, "--endpoints") == f"no cloud was running in {state}\n"
    with running(state, "--no-broker"), CloudClient.connect(str(state)) as client:  # as after a restart of the machine
        assert client.endpoint_keys("survivor").primary == key
        wait_until(lambda: client.endpoint("survivor").answering == 2 and answers(record.scoring_uri, key))
        client.delete_endpoint("survivor")


def cloud_command(name: str, state: Path, *options: str) -> str:
    finished = CliRunner().invoke(main, ["cloud", name, "--state", str(state), *options])
    assert finished.exit_code == 0, finished.output
    return finished.output


def answers(uri: str, key: str) -> bool:
    with suppress(urllib3.exceptions.HTTPError):
        return score(uri, key) == (200, "new")
    return False


def _healthy(cloud: RunningCloud) -> EndpointRecord:
    with CloudClient.connect(str(cloud.state)) as client:
        return client.wait_for_endpoint("survivor")
