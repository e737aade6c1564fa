"""`edgewright cloud`: start, stop, kill and restart (protocol.md P1, P22, P70)."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from edgewright.cli import main
from edgewright.contracts import signing
from tests.support.running_cloud import Http, RunningCloud, running

COMMAND = [sys.executable, "-c", "from edgewright.cli import main; main()", "cloud"]


def cloud_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)


def broker_of(cloud: RunningCloud) -> psutil.Process:
    return psutil.Process(int((cloud.state / "broker" / "mosquitto.pid").read_text()))


def test_p70_the_client_file_locates_the_cloud(cloud: RunningCloud) -> None:
    context = json.loads((cloud.state / "client.json").read_text())
    token = Path(context["token_file"]).read_text().strip()
    assert Http(context["url"], Path(context["ca_file"]), token=token).get("/v1/devices").status == 200


def test_a_second_cloud_on_the_same_state_is_refused(cloud: RunningCloud) -> None:
    result = cloud_command("up", "--state", str(cloud.state), "--port", "0")
    assert result.returncode == 2
    expected = f"edgewright: another cloud uses {cloud.state}: stop it first, or choose another --state\n"
    assert result.stderr == expected


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        result = cloud_command("up", "--state", str(tmp_path / "state"), "--port", str(port), "--no-broker")
    assert result.returncode == 2
    assert result.stderr == (
        f"edgewright: port {port} of 127.0.0.1 must be free, but another program uses it: "
        "stop it, or choose another port with --port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--host", "192.0.2.1"), "edgewright: cannot listen on 192.0.2.1 port 0: ", id="host"),
        pytest.param(("--trust", "missing.pub"), "edgewright: missing.pub: no such public key", id="key"),
        pytest.param(("--broker", "mqtt://plain"), "edgewright: --broker must have the form mqtts://host:8883 ", id="broker"),
        pytest.param(
            ("--database", "nonsense"), "edgewright: a database URL must have the form postgresql+psycopg://", id="database"
        ),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line_with_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = cloud_command("up", "--state", str(tmp_path / "state"), "--port", "0", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_the_operator_token_is_printed_only_on_a_terminal(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--no-broker") as cloud:
        token = cloud.token
        cloud.stop()
        assert token not in cloud.log.read_text()
    output = on_a_terminal(["up", "--state", str(tmp_path / "state"), "--port", "0", "--no-broker"], until=f"#token={token}")
    assert f"console   {cloud.url}/#token={token}" in output


def on_a_terminal(arguments: list[str], until: str) -> str:
    """Run the command on a pseudo-terminal until it has printed `until`; return its output."""
    master, slave = pty.openpty()
    process = subprocess.Popen([*COMMAND, *arguments], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    output = ""
    while until not in output:
        output += os.read(master, 4096).decode()
    process.terminate()
    process.wait(20)
    watchdog.cancel()
    os.close(master)
    return output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_cloud_and_its_broker(require: Callable[[str], Path], tmp_path: Path, number: signal.Signals) -> None:
    require("mosquitto")
    with running(tmp_path / "state") as cloud:
        broker = broker_of(cloud)
        cloud.process.send_signal(number)
        assert cloud.process.wait(20) == 0
        assert not broker.is_running()


def test_a_waiting_request_does_not_delay_the_shutdown(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--no-broker") as cloud, ThreadPoolExecutor(1) as waiter:
        device = cloud.enrol("waiting", tmp_path)
        answer = waiter.submit(device.http.get, "/v1/device/desired?have=0&wait_s=60")
        assert cloud.stop() == 0
        assert answer.result(timeout=20).status == 204


def test_a_cloud_restarted_after_a_kill_has_the_same_addresses_and_devices(
    require: Callable[[str], Path], tmp_path: Path
) -> None:
    require("mosquitto")
    with running(tmp_path / "state") as cloud:
        device = cloud.enrol("survivor", tmp_path)
        orphan = broker_of(cloud)
        cloud.kill()
        assert orphan.is_running()
        with running(tmp_path / "state") as again:
            assert (again.url, again.broker) == (cloud.url, cloud.broker)
            assert not orphan.is_running()
            assert device.http.get("/v1/device/desired").status == 204
            assert [each["device"] for each in again.operator().get("/v1/devices").json()] == ["survivor"]


def test_a_restart_without_a_broker_also_stops_the_broker_of_a_killed_cloud(
    require: Callable[[str], Path], tmp_path: Path
) -> None:
    require("mosquitto")
    with running(tmp_path / "state") as cloud:
        orphan = broker_of(cloud)
        cloud.kill()
        with running(tmp_path / "state", "--no-broker"):
            assert not orphan.is_running()


def test_p22_a_running_cloud_trusts_an_added_key(cloud: RunningCloud, tmp_path: Path) -> None:
    public = signing.write_key_pair(tmp_path / "publisher", signing.generate_key())
    result = cloud_command("trust", str(public), "--state", str(cloud.state))
    key_id = signing.key_id(signing.load_public_key(public))
    assert (result.returncode, result.stdout) == (0, f"trusted by the cloud of {cloud.state}: {key_id}\n")
    assert public.read_text() in cloud.enrol("trusting", tmp_path).enrolment["publisher_keys_pem"]


def test_a_file_without_a_key_is_reported_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "no.pub").write_text("no key")
    result = CliRunner().invoke(main, ["cloud", "trust", str(tmp_path / "no.pub"), "--state", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"edgewright: {tmp_path / 'no.pub'}: a trusted key must be a PEM public key")


def test_a_hub_file_that_cannot_be_used_begins_no_state_directory(tmp_path: Path) -> None:
    state, missing = tmp_path / "state", tmp_path / "hub.txt"
    finished = cloud_command("up", "--state", str(state), "--port", "0", "--iothub", str(missing))
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1)
    assert f"{missing} must be a file with the connection string of a hub" in finished.stderr
    assert not state.exists()


def test_a_broker_given_by_url_replaces_the_built_in_one(require: Callable[[str], Path], tmp_path: Path) -> None:
    require("mosquitto")
    with running(tmp_path / "first") as first:
        assert first.broker is not None
        url = f"mqtts://{first.broker[0]}:{first.broker[1]}"
        with running(tmp_path / "second", "--broker", url) as second:
            assert second.broker == first.broker
            assert not (second.state / "broker").exists()


def test_the_certificate_covers_a_name_added_later(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state, "--no-broker") as cloud:
        authority = cloud.ca.read_bytes()
    with running(state, "--no-broker", "--name", "localhost", "--name", "cloud.example") as cloud:
        assert cloud.url.startswith("https://localhost:")
        assert cloud.anonymous().get("/healthz").status == 200
        assert cloud.ca.read_bytes() == authority


def test_the_printed_export_line_is_quoted_for_a_shell(tmp_path: Path) -> None:
    state = tmp_path / "my cloud's state"
    command = [*COMMAND, "up", "--state", str(state), "--port", "0", "--no-broker"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("clients "))
        process.send_signal(signal.SIGTERM)
    shell = subprocess.run(
        ["sh", "-c", f'{line.split(maxsplit=1)[1]}\nprintf %s "$EDGEWRIGHT_CLOUD"'], capture_output=True, text=True
    )
    assert shell.stdout == str(state / "client.json")
