"""`edgewright iotedge push` to a running hub, read back with Azure's service library; and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.contracts.iothub.connection_strings import parse_device, parse_service
from edgewright.errors import BadInputError
from tests.commands.conftest import CommandLine
from tests.support.running_hub import RunningHub, running_hub

IMAGE = "registry.example/churn-image:1"
KEY = "c2VjcmV0IHNlY3JldCBzZWNyZXQ="


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("push")) as hub:
        hub.client().call("PUT", "/devices/gateway", {"deviceId": "gateway", "capabilities": {"iotEdge": True}})
        hub.client().call("PUT", "/devices/plain", {"deviceId": "plain"})
        yield hub


@pytest.fixture
def edgewright(tmp_path: Path) -> CommandLine:
    """The commands without a cloud."""
    return CommandLine(tmp_path / "no-cloud")


@pytest.fixture
def secret(hub: RunningHub, tmp_path: Path) -> Path:
    """File with the connection string of the hub's owner."""
    file = tmp_path / "hub.txt"
    file.write_text(hub.client().service_connection_string() + "\n")
    return file


@pytest.fixture
def manifest(edgewright: CommandLine, tmp_path: Path) -> Path:
    file = tmp_path / "deployment.json"
    edgewright.ok("iotedge", "manifest", IMAGE, "-o", file)
    return file


def test_a_device_and_a_deployment_have_what_was_pushed(
    hub: RunningHub,
    secret: Path,
    manifest: Path,
    edgewright: CommandLine,
    tmp_path: Path,
    clients_python: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = tmp_path / "layer.json"
    edgewright.ok("iotedge", "manifest", "registry.example/ocr:3", "--layered", "-o", layer)
    line = edgewright.ok("iotedge", "push", manifest, "--hub", secret, "--ca", hub.ca, "--device", "gateway")
    assert line == f"device gateway has the manifest {manifest}\n"
    early = edgewright.run(
        "iotedge",
        "push",
        layer,
        "--hub",
        hub.state,
        "--configuration",
        "early",
        "--target-condition",
        "deviceId='x'",
        "--layered",
    )
    assert "no standard deployment has a priority below 0" in early.stderr
    monkeypatch.setenv("EDGEWRIGHT_IOTHUB", secret.read_text())
    where = ["--configuration", "base", "--target-condition", "deviceId = 'gateway'", "--ca", hub.ca]
    edgewright.ok("iotedge", "push", manifest, *where, "--priority", 3, "--label", "team=vision")
    over = ["--configuration", "ocr", "--target-condition", "deviceId = 'gateway'", "--layered", "--priority", 4]
    line = edgewright.ok("iotedge", "push", layer, "--hub", hub.state, *over)
    assert line == f"deployment ocr has the manifest {layer}: priority 4, now targets 1 device\n"
    updated = edgewright.json("iotedge", "push", manifest, *where, "--priority", 2, "--update")
    assert updated == {"configuration": "base", "priority": 2, "targeted_devices": 1}
    result = hub.call(clients_python, "pushed", edge_device="gateway", configuration="base")["pushed"]
    assert result == {
        "modules": {"churn": IMAGE, "ocr": "registry.example/ocr:3"},
        "identities": ["$edgeAgent", "$edgeHub", "churn", "ocr"],
        "content": json.loads(manifest.read_text())["modulesContent"],
        "target_condition": "deviceId = 'gateway'",
        "priority": 2,
        "labels": {"team": "vision"},
    }


def test_each_refusal_of_the_hub_is_one_line_without_the_key(
    hub: RunningHub, secret: Path, manifest: Path, edgewright: CommandLine, tmp_path: Path
) -> None:
    def refused(*words: object, hub_file: Path = secret) -> str:
        line = edgewright.refused("iotedge", "push", manifest, "--hub", hub_file, "--ca", hub.ca, *words)
        assert "SharedAccessKey=" not in line
        return line

    where = ["--configuration", "twice", "--target-condition", "*"]
    assert "status 404: the hub has no device ghost" in refused("--device", "ghost")
    assert "status 400: plain must be an IoT Edge device" in refused("--device", "plain")
    edgewright.ok("iotedge", "push", manifest, "--hub", secret, "--ca", hub.ca, *where)
    assert "status 409: configuration twice exists" in refused(*where)
    other = tmp_path / "other.json"
    edgewright.ok("iotedge", "manifest", "registry.example/other:1", "-o", other)
    line = edgewright.refused("iotedge", "push", other, "--hub", secret, "--ca", hub.ca, *where, "--update")
    assert "the content of deployment twice must stay as it is" in line
    assert "status 404: the hub has no configuration never" in refused(
        "--configuration", "never", "--target-condition", "*", "--update"
    )
    assert "the query cannot be used" in refused("--configuration", "c", "--target-condition", "tags.a ==")
    wrong = tmp_path / "wrong.txt"
    wrong.write_text(f"{secret.read_text().rpartition('SharedAccessKey=')[0]}SharedAccessKey={KEY}")
    line = refused("--device", "gateway", hub_file=wrong)
    assert "status 401" in line
    assert line.endswith("check the key of the connection string")
    assert KEY not in line


def test_a_hub_that_does_not_answer_or_cannot_be_verified_is_named(
    hub: RunningHub, secret: Path, manifest: Path, edgewright: CommandLine, tmp_path: Path
) -> None:
    silent = tmp_path / "silent.txt"
    silent.write_text(f"HostName=127.0.0.1:9;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}")
    result = edgewright.run("iotedge", "push", manifest, "--hub", silent, "--device", "gateway")
    assert result.exit_code == 3
    assert "the hub 127.0.0.1:9 does not answer" in result.stderr
    unverified = edgewright.run("iotedge", "push", manifest, "--hub", secret, "--device", "gateway")
    assert unverified.exit_code == 3
    assert "must be issued by a known authority, but it is not: name its file with --ca" in unverified.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--device", "a", "--configuration", "b"], "either --device or --configuration must be given"),
        (["--device", "a", "--priority", "1"], "belong to --configuration: omit them with --device"),
        (["--configuration", "b"], "--configuration must have --target-condition"),
        (["--configuration", "b", "--target-condition", "*", "--layered"], "is a standard manifest: omit --layered"),
        (["--device", "a"], "a connection string must be in a file, or in the environment as EDGEWRIGHT_IOTHUB"),
        (["--device", "a", "--hub", "no-such.txt"], "there is no file no-such.txt"),
        (["--device", "a", "--hub", "/"], "must be the state directory of a hub, but it is not"),
    ],
)
def test_a_wrong_use_is_refused_before_a_hub_is_asked(
    words: list[str], line: str, manifest: Path, edgewright: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEWRIGHT_IOTHUB", raising=False)
    assert line in edgewright.refused("iotedge", "push", manifest, *words)


def test_a_connection_string_of_another_kind_is_refused_without_its_key() -> None:
    with pytest.raises(BadInputError) as no_policy:
        parse_service(f"HostName=h;DeviceId=d;SharedAccessKey={KEY}")
    assert str(no_policy.value) == (
        "the connection string of a policy of the hub must have HostName, SharedAccessKeyName, SharedAccessKey; "
        "without: SharedAccessKeyName"
    )
    with pytest.raises(BadInputError, match="has ModuleId: use that of its device"):
        parse_device(f"HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey={KEY}")
    with pytest.raises(BadInputError) as bad_key:
        parse_service("HostName=h;SharedAccessKeyName=p;SharedAccessKey=abc")
    assert "abc" not in str(bad_key.value)
