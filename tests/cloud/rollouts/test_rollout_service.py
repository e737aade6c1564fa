"""Rollouts in the running service: routes, prompt offers, and a restart after a kill."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from edgewright.contracts import signing
from edgewright.contracts.messages import DeploymentState
from tests.support.running_cloud import RunningCloud, running, start
from tests.support.scripted_devices import enrol_scripted
from tests.support.small_packages import make_package, push
from tests.support.trusting_cloud import publisher, trusting_cloud

__all__ = ["publisher", "trusting_cloud"]


def publish(cloud: RunningCloud, publisher: Path, folder: Path, name: str) -> None:
    package = make_package(folder / name, name)
    push(cloud.operator(), package, name)
    answer = cloud.operator().post(f"/v1/models/{name}/versions", package.signed(signing.load_private_key(publisher), 1))
    assert answer.status == 201, answer.body


def wait_until_ended(cloud: RunningCloud, number: int) -> Any:
    """Follow the changes until a rollout is no longer active; return its record."""
    operator, seen, ends_at = cloud.operator(), 0, time.monotonic() + 30
    while time.monotonic() < ends_at:
        record = operator.get(f"/v1/rollouts/{number}").json()
        if record["state"] not in ("running", "paused"):
            return record
        seen = operator.get(f"/v1/changes?after={seen}&wait_s=5").json()["number"]
    raise AssertionError(f"rollout {number} has not ended within 30 s: {record}")


def test_an_offer_reaches_a_waiting_device_at_once(trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path) -> None:
    publish(trusting_cloud, publisher, tmp_path, "prompt")
    first, second = enrol_scripted(trusting_cloud, "prompt-1", tmp_path), enrol_scripted(trusting_cloud, "prompt-2", tmp_path)
    request = {"model": "prompt", "devices": ["prompt-1", "prompt-2"], "waves": ["1", "2"]}
    answer = trusting_cloud.operator().post("/v1/rollouts", request)
    assert answer.status == 201
    first.run_desired(wait_s=5)
    second.run_desired(wait_s=5)
    assert wait_until_ended(trusting_cloud, answer.json()["rollout"])["state"] == "completed"


def test_a_cloud_killed_during_a_rollout_continues_it_after_the_restart(publisher: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state, "--no-broker", "--trust", f"{publisher}.pub") as cloud:
        publish(cloud, publisher, tmp_path, "lasting")
        devices = [enrol_scripted(cloud, f"lasting-{number}", tmp_path) for number in (1, 2, 3)]
        request = {"model": "lasting", "devices": [each.name for each in devices], "waves": ["1", "2", "3"]}
        number = cloud.operator().post("/v1/rollouts", request).json()["rollout"]
        devices[0].run_desired()
        desired = devices[1].wait_for_desired()
        cloud.kill()
    restarted = start(state, "--no-broker")
    try:
        assert restarted.url == cloud.url
        devices[1].report(DeploymentState.RUNNING, running=desired)
        assert devices[2].run_desired().desired_number == 1
        record = wait_until_ended(restarted, number)
        assert record["state"] == "completed"
        assert [each["desired_number"] for each in record["devices"]] == [1, 1, 1]
        assert devices[0].has_no_newer_desired()
    finally:
        assert restarted.stop() == 0
        assert restarted.process.stdout is not None
        restarted.process.stdout.close()


@pytest.mark.parametrize(
    ("state", "keep_on_halt", "is_kept"),
    [
        pytest.param(DeploymentState.RUNNING, False, True, id="running"),
        pytest.param(DeploymentState.REFUSED, False, False, id="refused"),
        pytest.param(DeploymentState.ROLLED_BACK, False, False, id="rolled back"),
        pytest.param(DeploymentState.FAILED, True, False, id="failed"),
    ],
)
def test_a_replacement_gets_the_version_of_its_name_unless_that_was_stopped(
    trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path, state: DeploymentState, keep_on_halt: bool, is_kept: bool
) -> None:
    name = f"replaced-{state.value.replace('_', '-')}"
    publish(trusting_cloud, publisher, tmp_path, name)
    device = enrol_scripted(trusting_cloud, name, tmp_path)
    request = {"model": name, "devices": [name], "waves": ["1"], "rollback_on_halt": not keep_on_halt}
    number = trusting_cloud.operator().post("/v1/rollouts", request).json()["rollout"]
    desired = device.wait_for_desired()
    device.report(state, "reported", running=desired if is_kept else None)
    assert wait_until_ended(trusting_cloud, number)["state"] == ("completed" if is_kept else "halted")
    assert trusting_cloud.operator().post(f"/v1/devices/{name}/revoke").status == 200
    (tmp_path / "replacement").mkdir()
    replacement = enrol_scripted(trusting_cloud, name, tmp_path / "replacement", device=name)
    assert replacement.has_no_newer_desired() is not is_kept


def test_a_replacement_does_not_get_an_offer_of_an_aborted_rollout(
    trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path
) -> None:
    publish(trusting_cloud, publisher, tmp_path, "aborted")
    device = enrol_scripted(trusting_cloud, "aborted-1", tmp_path)
    request = {"model": "aborted", "devices": ["aborted-1"], "waves": ["1"]}
    operator = trusting_cloud.operator()
    number = operator.post("/v1/rollouts", request).json()["rollout"]
    device.wait_for_desired()
    assert operator.post(f"/v1/rollouts/{number}/abort").status == 200
    assert operator.post("/v1/devices/aborted-1/revoke").status == 200
    (tmp_path / "replacement").mkdir()
    replacement = enrol_scripted(trusting_cloud, "aborted-1", tmp_path / "replacement", device="aborted-1")
    assert replacement.has_no_newer_desired()


def test_a_device_cannot_see_or_change_rollouts(trusting_cloud: RunningCloud, tmp_path: Path) -> None:
    device = enrol_scripted(trusting_cloud, "curious-1", tmp_path).enrolled.http
    assert device.get("/v1/rollouts").status == 403
    assert device.post("/v1/rollouts", {"model": "prompt"}).status == 403
    assert trusting_cloud.anonymous().post("/v1/rollouts/1/abort").status == 401


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        pytest.param({"model": "unknown"}, 404, "no model is called 'unknown'", id="model"),
        pytest.param({"model": "asked", "version": 7}, 404, "model asked has no version 7", id="version"),
        pytest.param({"model": "asked", "devices": ["ghost"]}, 404, "no device is called 'ghost'", id="device"),
        pytest.param(
            {"model": "asked", "waves": ["half"]}, 400, "a wave must be a number or a percentage of devices", id="waves"
        ),
        pytest.param(
            {"model": "asked", "success_threshold": 2.0},
            400,
            "success_threshold must be greater than 0 and at most 1",
            id="share",
        ),
        pytest.param({"waves": []}, 400, "the body cannot be read: Object missing required field `model`", id="no model"),
    ],
)
def test_an_invalid_request_is_answered_in_one_line(
    trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path, body: dict[str, Any], status: int, error: str
) -> None:
    operator = trusting_cloud.operator()
    if operator.get("/v1/models/asked").status == 404:
        publish(trusting_cloud, publisher, tmp_path, "asked")
        enrol_scripted(trusting_cloud, "asked-1", tmp_path)
    answer = operator.post("/v1/rollouts", body)
    assert (answer.status, answer.error[: len(error)]) == (status, error)


@pytest.mark.parametrize("number", ["999", "x", "-1"])
def test_an_unknown_rollout_is_not_found(trusting_cloud: RunningCloud, number: str) -> None:
    assert trusting_cloud.operator().get(f"/v1/rollouts/{number}").status == 404
