"""A cloud on a real PostgreSQL server, also while the server is down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgewright.cli import main
from edgewright.contracts.connection import topics
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.messages import DeploymentState, RolloutRequest, RolloutState
from edgewright.contracts.signing import load_private_key
from edgewright.demo.processes import wait_until
from edgewright.sdk import CloudClient
from tests.support.mqtt_devices import batch, connected, record_once, report
from tests.support.postgres_server import PostgresServer, running_postgres
from tests.support.running_cloud import running
from tests.support.scripted_devices import enrol_scripted
from tests.support.small_packages import make_package
from tests.support.trusting_cloud import publisher

__all__ = ["publisher"]


@pytest.fixture(scope="module")
def server(require: Callable[[str], Path]) -> Iterator[PostgresServer]:
    """Return a server for this module, which its tests may stop."""
    with running_postgres(require("postgres").parent) as server:
        yield server


def test_a_rollout_completes_and_a_restarted_cloud_shows_it(server: PostgresServer, publisher: Path, tmp_path: Path) -> None:
    options = ("--no-broker", "--trust", f"{publisher}.pub", "--database", server.new_database())
    with running(tmp_path / "state", *options) as cloud, CloudClient.connect(str(cloud.state)) as client:
        client.publish(make_package(tmp_path, "digits").layout.path, load_private_key(publisher))
        device = enrol_scripted(cloud, "camera-1", tmp_path)
        number = client.create_rollout(RolloutRequest(model="digits", waves=("100%",))).rollout
        device.run_desired()
        device.measure("latency_p50", "ms", 3.0)
        ended = list(client.watch_rollout(number))[-1]
        assert (ended.state, ended.devices[0].state) == (RolloutState.COMPLETED, DeploymentState.RUNNING)
    assert not (tmp_path / "state" / "cloud.db").exists()
    with running(tmp_path / "state", *options) as cloud, CloudClient.connect(str(cloud.state)) as client:
        assert client.rollout(number) == ended
        assert [each.value for each in client.telemetry(device="camera-1")] == [3.0]


def test_files_of_deleted_versions_are_collected_while_others_register(server: PostgresServer, tmp_path: Path) -> None:
    for name in ("shared", *map(str, range(8))):
        (tmp_path / f"{name}.bin").write_bytes(name.encode() * 1000)

    def register(number: int) -> int:
        with CloudClient.connect(str(cloud.state)) as own:
            own.create_environment(Environment(name="Shared", variables={"NUMBER": str(number)}))
            return own.register_model("digits", [tmp_path / "shared.bin", tmp_path / f"{number}.bin"]).version

    options = ("--no-broker", "--database", server.new_database())
    with (
        running(tmp_path / "state", *options) as cloud,
        CloudClient.connect(str(cloud.state)) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        numbers = pool.map(register, range(8))
        collected = [client.collect_unreferenced(3600) for _ in range(4)]
        assert sorted(numbers) == list(range(1, 9))
        assert [each.blobs for each in collected] == [0] * 4
        assert [each.version for each in client.environment_versions("Shared")] == list(range(1, 9))
        for version in client.model_versions("digits")[1:]:
            client.delete_version(version)
        answer = CliRunner().invoke(main, ["models", "gc", "--grace", "0s", "--cloud", str(cloud.state)])
        assert answer.exit_code == 0, answer.output
        assert answer.output.startswith("removed 21 files, ")  # of seven versions: a file, a manifest and an index
        assert client.collect_unreferenced(0).blobs == 0
        [left] = client.model_versions("digits")
        files = client.download_model(left, tmp_path / "back")
        assert (left.version, (files / "shared.bin").read_bytes()) == (1, b"shared" * 1000)


def test_requests_get_503_while_the_server_is_down_and_work_after_its_restart(server: PostgresServer, tmp_path: Path) -> None:
    with running(tmp_path / "state", "--no-broker", "--database", server.new_database()) as cloud:
        device = enrol_scripted(cloud, "camera-1", tmp_path)
        server.stop()
        try:
            answer = cloud.operator().get("/v1/devices")
            assert answer.status == 503
            assert answer.error == "the database does not answer; try again"
        finally:
            server.start()
        assert cloud.operator().get("/v1/changes?after=999&wait_s=1").status == 200
        assert [each["device"] for each in cloud.operator().get("/v1/devices").json()] == ["camera-1"]
        device.report(DeploymentState.RUNNING, "still here")
        assert cloud.stop() == 0
    assert "Traceback" not in cloud.log.read_text()


def test_a_report_sent_over_mqtt_while_the_server_is_down_is_stored_later(
    server: PostgresServer, require: Callable[[str], Path], tmp_path: Path
) -> None:
    require("mosquitto")
    with running(tmp_path / "state", "--database", server.new_database()) as cloud:
        with connected(cloud, cloud.enrol("camera-1", tmp_path)) as client:
            server.stop()
            try:
                client.publish(topics.topic("camera-1", topics.REPORTED), report("camera-1", 1), retain=True)
                wait_until(lambda: "cannot process message" in cloud.log.read_text(), what="the refusal", timeout_s=30)
            finally:
                server.start()
            client.publish(topics.topic("camera-1", topics.TELEMETRY), batch("camera-1", 1))
            record = record_once(cloud.operator(), "camera-1", lambda record: record["reported"] is not None)
        assert (record["reported"]["reason"], record["telemetry_count"]) == ("all is well", 1)
        assert cloud.stop() == 0
    assert "Traceback" not in cloud.log.read_text()
