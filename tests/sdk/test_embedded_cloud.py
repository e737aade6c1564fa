"""The embedded cloud of a folder: started on first use, one for all processes, restarted after a crash, stopped."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import urllib3

from edgewright.contracts.connection.enrolment import TokenRequest
from edgewright.errors import BadInputError, NotFoundError, OperationError
from edgewright.sdk import Workspace
from tests.support.embedded_cloud import scratch_folder

STATE = Path(".edgewright/cloud")
USE = "from edgewright.sdk import Workspace; print(Workspace().url)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with scratch_folder(tmp_path_factory.mktemp("embedded")) as scratch:
        yield scratch


def holder() -> psutil.Process:
    return psutil.Process(int((STATE / "lock").read_text()))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgewright", *arguments], capture_output=True, text=True, timeout=60)


def test_processes_that_start_it_at_the_same_time_share_one_cloud(folder: Path) -> None:
    users = [subprocess.Popen([sys.executable, "-c", USE], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    urls = {user.communicate(timeout=120)[0].strip() for user in users}
    assert [user.returncode for user in users] == [0, 0, 0]
    assert len(urls) == 1
    assert urls == {Workspace().url}
    assert holder().ppid() not in {user.pid for user in users}


def test_its_addresses_need_no_certificate_and_refuse_a_request_without_token(folder: Path) -> None:
    workspace = Workspace()
    assert workspace.url.startswith("http://127.0.0.1:")
    assert workspace.ca_file is None
    assert urllib3.request("GET", f"{workspace.url}/v1/models", retries=False).status == 401
    assert workspace.models == {}


def test_a_killed_cloud_is_started_again_at_the_same_address_on_the_next_use(folder: Path) -> None:
    workspace = Workspace()
    url, process = workspace.url, holder()
    with os.fdopen(os.pidfd_open(process.pid)) as watched:
        process.send_signal(signal.SIGKILL)
        assert select.select([watched], [], [], 20)[0]
    assert workspace.models == {}
    assert workspace.url == url
    assert holder().pid != process.pid


def test_files_of_the_embedded_cloud_are_private_and_not_for_version_control(folder: Path) -> None:
    assert Workspace().models == {}
    assert (folder / ".edgewright").stat().st_mode & 0o777 == 0o700
    assert (folder / ".edgewright/.gitignore").read_text() == "*\n"


def test_cloud_down_stops_the_embedded_cloud_of_the_folder(folder: Path) -> None:
    assert Workspace().models == {}
    assert command("cloud", "down").stdout == "stopped the cloud of .edgewright/cloud\n"
    assert command("cloud", "down").stdout == "no cloud was running in .edgewright/cloud\n"


def test_a_cloud_stops_after_the_time_without_a_request(tmp_path: Path) -> None:
    done = command("cloud", "up", "--state", str(tmp_path / "s"), "--plain-http", "--port", "0", "--stop-after", "1s", "-v")
    assert done.returncode == 0
    assert "stopped because of no request for_s=1" in done.stderr


def test_a_cloud_that_cannot_start_is_reported_with_the_last_line_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    STATE.mkdir(parents=True)
    (STATE / "ca.pem").write_text("damaged")
    expected = r"embedded cloud in .*edgewright must start, but it did not: edgewright: .*ca\.key must exist.*; its log is "
    with pytest.raises(OperationError, match=expected):
        _ = Workspace().models


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--plain-http", "--host", "0.0.0.0"), "--plain-http needs a loopback address", id="reachable"),
        pytest.param(("--stop-after", "0s"), "the time without a request must be positive, not 0 s", id="no time"),
    ],
)
def test_settings_of_an_embedded_cloud_are_checked(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = command("cloud", "up", "--state", str(tmp_path), *arguments)
    assert (done.returncode, message in done.stderr) == (2, True)


def test_devices_cannot_enrol_at_a_cloud_without_tls(folder: Path) -> None:
    with pytest.raises(BadInputError, match="devices authenticate with certificates, which need TLS"):
        Workspace().cloud.issue_token(TokenRequest())


def test_a_configured_cloud_is_used_in_place_of_an_embedded_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = Workspace()
    client_file = folder / STATE / "client.json"
    assert embedded.models == {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEWRIGHT_CLOUD", str(client_file))
    assert Workspace().url == embedded.url
    assert not (tmp_path / ".edgewright").exists()


def test_a_config_file_names_the_cloud_and_the_workspace(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workspace(workspace_name="churn", cloud=str(folder / STATE / "client.json")).write_config(tmp_path)
    below = tmp_path / "notebooks"
    below.mkdir()
    monkeypatch.chdir(below)
    assert Workspace.from_config().name == "churn"
    assert Workspace.from_config(tmp_path).url == Workspace.from_config(folder / STATE / "client.json").url
    with pytest.raises(NotFoundError, match="nowhere: no such config.json or client.json"):
        Workspace.from_config("nowhere")


def test_the_file_of_an_azure_workspace_opens_the_embedded_cloud(folder: Path) -> None:
    azure = '{"subscription_id": "0000", "resource_group": "group", "workspace_name": "mine"}'
    (folder / "config.json").write_text(azure)
    workspace = Workspace.from_config()
    (folder / "config.json").unlink()
    assert (workspace.name, workspace.resource_group, workspace.is_embedded) == ("mine", "group", True)


def test_a_datastore_returns_the_files_that_it_received(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/a.txt").write_text("one")
    store = Workspace().get_default_datastore()
    store.upload(str(tmp_path / "in"), "images")
    assert store.download(str(tmp_path / "out"), prefix="images") == 1
    assert (tmp_path / "out/images/deep/a.txt").read_text() == "one"
    with pytest.raises(BadInputError, match="exists already: set overwrite=True"):
        store.upload(str(tmp_path / "in"), "images")
    with pytest.raises(BadInputError, match="must stay below it, but '../x' does not"):
        store.upload(str(tmp_path / "in"), "../x")
    assert [each.name for each in store.root.iterdir()] == ["images"]


def test_commands_in_the_folder_use_the_embedded_cloud(folder: Path) -> None:
    Path("weights.bin").write_bytes(b"1")
    registered = command("models", "register", "by-command", "weights.bin")
    assert registered.returncode == 0, registered.stderr
    assert Workspace().models["by-command"].version == 1
    assert "by-command" in command("models", "list").stdout
