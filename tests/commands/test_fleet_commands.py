"""The commands publish, models, devices and rollouts, run against a real cloud."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud.db.database import Database
from cloud.db.schema import benchmarks
from edge_agent.cli import group as agent
from edgewright.commands.devices import enrol_command
from edgewright.contracts import wire
from edgewright.contracts.connection.benchmarks import BenchmarkResult
from edgewright.contracts.messages import DeploymentState, FailureCause
from tests.commands.conftest import CommandLine
from tests.support.running_cloud import RunningCloud
from tests.support.scripted_devices import enrol_scripted
from tests.support.small_packages import make_package


def test_publish_prints_the_new_version(edgewright: CommandLine, publisher: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path, "spoken").layout.path
    output = edgewright.ok("publish", package, "--key", publisher)
    assert re.fullmatch(r"published spoken:1: 1 variant, .* kB\nnext: edgewright rollouts create spoken:1\n", output)
    assert edgewright.json("publish", package, "--key", publisher, "--expires-days", 7)["version"] == 2


def test_publish_needs_a_key_and_a_package_that_exist(edgewright: CommandLine, publisher: Path, tmp_path: Path) -> None:
    assert "no such package" in edgewright.refused("publish", tmp_path / "nothing", "--key", publisher)
    assert "no such" in edgewright.refused("publish", make_package(tmp_path, "keyless").layout.path, "--key", tmp_path / "nokey")


def test_models_are_listed_and_shown(edgewright: CommandLine, publish: Callable[[str], Any]) -> None:
    first, second = publish("shown"), publish("shown")
    assert second in edgewright.json("models", "list")
    assert edgewright.json("models", "show", "shown") == [first, second]
    assert edgewright.ok("models", "show", "shown").splitlines()[2].startswith("shown        2  ")


def test_an_unknown_model_offers_the_nearest(edgewright: CommandLine, publish: Callable[[str], Any]) -> None:
    publish("digits")
    assert "no model is called 'digit'; known: digits" in edgewright.refused("models", "show", "digit")


def test_a_token_is_one_line_that_can_be_piped(edgewright: CommandLine) -> None:
    output = edgewright.ok("devices", "token", "--device", "cam-9", "--label", "site=east", "--valid", "10m")
    assert re.fullmatch(r"ew1\.[A-Za-z0-9_-]+\n", output)


@pytest.mark.parametrize("device", ["cam-9", None])
def test_the_printed_enrol_command_is_what_the_agent_accepts(device: str | None) -> None:
    program, group, command, *arguments = shlex.split(enrol_command("ew1.a-b_c", device))
    assert (program, group, command) == ("edgewright", "agent", "enrol")
    parsed = agent.commands[command].make_context(command, arguments).params
    assert (parsed["token"], parsed["device"]) == ("ew1.a-b_c", device or "NAME")


def test_a_terminal_gets_the_enrol_command_beside_the_token(edgewright: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright.commands.devices.on_a_terminal", lambda: True)
    result = edgewright.run("devices", "token", "--device", "cam-9")
    assert result.stderr.splitlines()[1] == f"  edgewright agent enrol --token {result.stdout.strip()} --name cam-9"


def test_a_label_of_a_device_is_set_and_removed(edgewright: CommandLine, trusting_cloud: RunningCloud, tmp_path: Path) -> None:
    enrol_scripted(trusting_cloud, "labelled-1", tmp_path, labels={"line": "7"})
    assert edgewright.ok("devices", "label", "labelled-1", "site=east") == "labelled-1: line=7 site=east\n"
    assert edgewright.ok("devices", "label", "labelled-1", "line=") == "labelled-1: site=east\n"


def test_shared_benchmarks_are_listed_and_deleted(edgewright: CommandLine, trusting_cloud: RunningCloud) -> None:
    result = BenchmarkResult(
        device="cam-1",
        model="timed",
        version=2,
        basis=wire.digest_of(b"basis"),
        fingerprint="5f1c20de x86_64 Example x4",
        measured_at=datetime(2030, 1, 31, 12, tzinfo=UTC),
        fastest="int8",
        median_ms={"fp32": 9.021, "int8": 4.102},
        failures={"fp16": "no backend runs it"},
    )
    row = {"model": "timed", "basis": result.basis, "fingerprint": result.fingerprint, "device": "cam-1"}
    database = Database.open(f"sqlite:///{trusting_cloud.state / 'cloud.db'}")
    with database.transaction() as connection:
        connection.execute(benchmarks.insert().values(**row, claimed_until=result.measured_at, result=wire.encode(result)))
    database.close()
    lines = edgewright.ok("devices", "benchmarks", "timed").splitlines()
    assert re.split(r"  +", lines[1])[:4] == ["5f1c20de x86_64 Example x4", "timed:2", "int8", "4.102"]
    assert [re.split(r"  +", line)[2] for line in lines[1:]] == ["int8", "fp32", "fp16"]
    assert edgewright.json("devices", "benchmarks")[0]["median_ms"] == result.median_ms
    assert "deleted 1 of timed" in edgewright.ok("devices", "benchmarks", "timed", "--forget")
    assert "no device has measured 'timed'" in edgewright.refused("devices", "benchmarks", "timed", "--forget")
    assert "--forget must have a model" in edgewright.refused("devices", "benchmarks", "--forget")


def test_a_device_is_explained(
    edgewright: CommandLine,
    trusting_cloud: RunningCloud,
    publish: Callable[[str], Any],
    tmp_path: Path,
    golden: Callable[[str, str], None],
) -> None:
    publish("explained")
    device = enrol_scripted(trusting_cloud, "explained-1", tmp_path)
    edgewright.ok("rollouts", "create", "explained", "--device", "explained-1")
    device.wait_for_desired()
    before = edgewright.ok("devices", "explain", "explained-1")
    device.report(DeploymentState.FETCHING, "412 of 812 kB", attempt=2, choice=("int8: chosen, 1.9 ms p95", "fp16: 3.2 ms p95"))
    after = edgewright.ok("devices", "explain", "explained-1")
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    golden("devices_explain.txt", re.sub(moment, "<moment>", f"{before}---\n{after}"))


def test_a_device_is_shown_and_revoked(edgewright: CommandLine, trusting_cloud: RunningCloud, tmp_path: Path) -> None:
    enrol_scripted(trusting_cloud, "shown-1", tmp_path)
    assert "online     online" in edgewright.ok("devices", "show", "shown-1")
    assert "shown-1 is revoked" in edgewright.ok("devices", "revoke", "shown-1")
    (row,) = [line for line in edgewright.ok("devices", "list").splitlines() if line.startswith("shown-1 ")]
    assert "revoked" in row


def test_an_unknown_device_offers_the_nearest(edgewright: CommandLine, trusting_cloud: RunningCloud, tmp_path: Path) -> None:
    enrol_scripted(trusting_cloud, "camera-7", tmp_path)
    for verb in ("show", "explain", "revoke"):
        assert "no device is called 'camera-1'; known: camera-7" in edgewright.refused("devices", verb, "camera-1")


def test_a_rollout_is_created_with_its_rules(
    edgewright: CommandLine, trusting_cloud: RunningCloud, publish: Callable[[str], Any], tmp_path: Path
) -> None:
    publish("ruled")
    enrol_scripted(trusting_cloud, "ruled-1", tmp_path, labels={"site": "north"})
    gate = ("--label", "site=north", "--waves", "1,100%", "--success-threshold", "90%", "--keep-on-halt")
    times = ("--soak", "30s", "--trial", "5s", "--device-timeout", "2m")
    record = edgewright.json("rollouts", "create", "ruled:1", *gate, *times)
    expected = {"success_threshold": 0.9, "soak_s": 30, "trial_s": 5, "device_timeout_s": 120, "rollback_on_halt": False}
    assert {key: record["request"][key] for key in expected} == expected
    number = record["rollout"]
    assert "paused" in edgewright.ok("rollouts", "pause", number)
    assert edgewright.json("rollouts", "resume", number)["state"] == "running"
    assert edgewright.json("rollouts", "abort", number)["state"] == "aborted"


def test_watching_a_halted_rollout_exits_with_one(
    edgewright: CommandLine, trusting_cloud: RunningCloud, publish: Callable[[str], Any], tmp_path: Path
) -> None:
    publish("halting")
    device = enrol_scripted(trusting_cloud, "halting-1", tmp_path)
    number = edgewright.json("rollouts", "create", "halting", "--device", "halting-1")["rollout"]
    device.wait_for_desired()
    device.report(DeploymentState.REFUSED, "golden samples differ")
    result = edgewright.run("rollouts", "watch", number)
    assert result.exit_code == 1
    assert result.stderr == (
        f"edgewright: rollout {number} of halting:1 was halted: wave 1 of 1 can no longer reach 100% running: "
        "1 of 1 failed: halting-1 refused: golden samples differ\n"
    )
    assert "halting-1  refused  golden samples differ" in edgewright.ok("rollouts", "show", number)


def test_watching_a_completed_rollout_exits_with_zero(
    edgewright: CommandLine, trusting_cloud: RunningCloud, publish: Callable[[str], Any], tmp_path: Path
) -> None:
    publish("good")
    device = enrol_scripted(trusting_cloud, "good-1", tmp_path)
    number = edgewright.json("rollouts", "create", "good", "--device", "good-1")["rollout"]
    device.run_desired()
    assert edgewright.ok("rollouts", "watch", number).splitlines()[-1] == (
        f"rollout {number}  good:1  completed  wave 1/1  1 of 1 running  1 of 1 devices running"
    )
    assert edgewright.ok("rollouts", "list").splitlines()[1].startswith(f"{number:>7}  good:1 ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param("rollouts create missing", "no model is called 'missing'", id="unknown model"),
        pytest.param("rollouts create Digits", "a model's name must be lower-case letters", id="no model's name"),
        pytest.param("rollouts create digits:0", "a version must be a whole number from 1", id="version 0"),
        pytest.param("rollouts create x --device A", "a device's name must be lower-case letters", id="no device's name"),
        pytest.param("rollouts show 99999", "no rollout has the number 99999", id="unknown rollout"),
        pytest.param("devices token --valid 60d", "valid_s must be greater than 0 and at most 2592000", id="long token"),
        pytest.param("devices show Cam", "a device's name must be lower-case letters", id="device's name"),
    ],
)
def test_a_rejected_command_prints_one_line(edgewright: CommandLine, words: str, message: str) -> None:
    assert message in edgewright.refused(*words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param("rollouts create m --soak 30", "as in 50ms, 30s, 5m, 1h or 2d, not '30'", id="duration"),
        pytest.param("rollouts create m --success-threshold most", "as in 95% or 0.95, not 'most'", id="not a share"),
        pytest.param("rollouts create m --success-threshold 101%", "a fraction from 0% to 100%, as in 95% or 0.95", id="over"),
        pytest.param("devices token --label site", "must be a name and a value, as in site=plant-2, not 'site'", id="label"),
    ],
)
def test_an_invalid_option_states_its_notation(edgewright: CommandLine, words: str, message: str) -> None:
    result = edgewright.run(*words.split())
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_unreachable_cloud_exits_with_three(edgewright: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_TOKEN", "t")
    result = edgewright.run("devices", "list", cloud="https://127.0.0.1:1")
    assert result.exit_code == 3
    assert result.stderr.startswith("edgewright: cannot connect to the cloud at https://127.0.0.1:1: ")


def test_a_version_that_failed_on_a_profile_is_forgiven(
    edgewright: CommandLine, trusting_cloud: RunningCloud, publish: Callable[[str], Any], tmp_path: Path
) -> None:
    publish("forgiven")
    device = enrol_scripted(trusting_cloud, "forgiven-1", tmp_path, labels={"site": "forgiving"})
    number = edgewright.json("rollouts", "create", "forgiven", "--device", "forgiven-1")["rollout"]
    device.wait_for_desired()
    device.report(DeploymentState.ROLLED_BACK, "too slow", cause=FailureCause.PACKAGE)
    assert edgewright.run("rollouts", "watch", number).exit_code == 1
    refused = edgewright.refused("rollouts", "create", "forgiven", "--label", "site=forgiving")
    assert "forgiven:1 is known to fail on generic-x86-64 (forgiven-1: too slow)" in refused
    forgiven = edgewright.ok("rollouts", "forgive", "forgiven:1", "--profile", "generic-x86-64")
    assert forgiven == "forgiven: forgiven:1 on generic-x86-64 (forgiven-1: too slow)\n"
    nothing = edgewright.ok("rollouts", "forgive", "forgiven:1")
    assert nothing == "nothing to forgive: forgiven:1 is not known to fail on any hardware profile\n"
    assert edgewright.json("rollouts", "create", "forgiven", "--label", "site=forgiving")["state"] == "running"


def test_forgiving_needs_a_version(edgewright: CommandLine) -> None:
    expected = "forgive needs a version, such as digits:2, but digits has none"
    assert expected in edgewright.refused("rollouts", "forgive", "digits")
