"""`edgewright iotedge`: the files it writes and what it refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgewright.cli import main
from tests.commands.conftest import CommandLine

IMAGE = "registry.example/team/churn-image:1"


def test_modules_are_added_checked_and_previewed(edgewright: CommandLine, tmp_path: Path) -> None:
    file, layer = tmp_path / "deployment.json", tmp_path / "layer.json"
    assert edgewright.ok("iotedge", "manifest", IMAGE, "-o", file) == f"wrote {file}: module churn of {IMAGE}\n"
    edgewright.ok("iotedge", "manifest", "registry.example/ocr:2", "--port", 8081, "--base", file, "-o", file)
    edgewright.ok("iotedge", "manifest", "registry.example/ocr:3", "--no-port", "--layered", "-o", layer)
    assert edgewright.ok("iotedge", "check", file) == f"{file}: a standard manifest without faults\n"
    assert edgewright.ok("iotedge", "check", layer) == f"{layer}: a layered manifest without faults\n"
    agent = json.loads(file.read_text())["modulesContent"]["$edgeAgent"]["properties.desired"]
    assert list(agent["modules"]) == ["churn", "ocr"]
    options = json.loads(agent["modules"]["ocr"]["settings"]["createOptions"])
    assert options["HostConfig"]["PortBindings"] == {"8000/tcp": [{"HostPort": "8081"}]}
    assert options["HostConfig"]["Binds"] == ["/etc/edgewright/ocr:/run/edgewright:ro"]
    origins = edgewright.json("iotedge", "preview", file, "--layer", f"10:{layer}")["origins"]
    assert origins["modules/ocr"] == [str(file), str(layer)]


def test_a_manifest_with_a_password_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    words = ["iotedge", "manifest", IMAGE, "--user", "ci", "--password-stdin", "-o", str(file)]
    result = CliRunner().invoke(main, words, input="secret\n")
    assert result.exit_code == 0
    assert "secret" not in result.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    agent = json.loads(file.read_text())["modulesContent"]["$edgeAgent"]["properties.desired"]
    credentials = agent["runtime"]["settings"]["registryCredentials"]
    assert credentials == {"registry-example": {"address": "registry.example", "username": "ci", "password": "secret"}}


def test_an_image_of_the_cloud_must_be_built(edgewright: CommandLine) -> None:
    line = edgewright.refused("iotedge", "manifest", "missing-image")
    assert "no image is called 'missing-image'" in line
    assert "edgewright images build" in line


def test_every_fault_of_a_file_is_shown(edgewright: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    edgewright.ok("iotedge", "manifest", IMAGE, "-o", file)
    document = json.loads(file.read_text())
    module = document["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["churn"]
    module.update(status="paused", restartPolicy="sometimes")
    file.write_text(json.dumps({"$schema": "https://example.invalid/schema.json", **document}))
    result = edgewright.run("iotedge", "check", file)
    assert result.exit_code == 2
    assert [line.partition(": ")[0].rpartition("/")[2] for line in result.stdout.splitlines()] == ["status", "restartPolicy"]
    assert f"{file} has 2 faults" in result.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["manifest", IMAGE, "--module", "edgeHub"],
            "a module must be named by letters, digits, _ or -, and not edgeAgent or edgeHub",
        ),
        (["manifest", IMAGE, "--port", "0"], "--port must be from 1 to 65535, not 0"),
        (["manifest", IMAGE, "--device", "ttyUSB0"], "--device must be a path below /dev, not ttyUSB0"),
        (["manifest", IMAGE, "--keys", "keys"], "--keys must be an absolute path on the device, not keys"),
        (["manifest", IMAGE, "--cpus", "0"], "--cpus must be more than 0, not 0"),
        (["manifest", IMAGE, "--memory-mib", "2"], "--memory-mib must be at least 6, not 2"),
        (["manifest", IMAGE, "--route", "up=FROM /*"], "a route must be FROM <source> [WHERE <condition>] INTO <sink>"),
        (["manifest", IMAGE, "--layered", "--base", "x"], "--layered makes a new manifest"),
        (["manifest", IMAGE, "--layered", "--ttl", "5"], "--ttl belongs to a new standard manifest"),
        (["manifest", IMAGE, "--user", "ci"], "--user and --password-stdin must be given together"),
        (["manifest", IMAGE, "--base", "no-such.json"], "there is no file no-such.json"),
        (["preview", "no-such.json"], "there is no file no-such.json"),
    ],
)
def test_a_refusal_is_one_line(words: list[str], line: str, edgewright: CommandLine) -> None:
    assert line in edgewright.refused("iotedge", *words)
