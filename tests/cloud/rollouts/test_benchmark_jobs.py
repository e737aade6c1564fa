"""Benchmark jobs in the running service: each kind of machine measures once, and foreign or late messages change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cloud.rollouts.test_rollout_service import publish
from tests.support.benchmarking_devices import enrol_benchmarking
from tests.support.running_cloud import Answer, RunningCloud
from tests.support.trusting_cloud import publisher, trusting_cloud

__all__ = ["publisher", "trusting_cloud"]

TIMES = {"fp32": 4.0}
MACHINES = ("arm-a72", "arm-a76", "x86-avx2", "x86-vnni")
DEVICES_PER_MACHINE = 10


def create(cloud: RunningCloud, **request: Any) -> Answer:
    return cloud.operator().post("/v1/benchmark-jobs", request)


def state_of(cloud: RunningCloud, job: int) -> dict[str, str]:
    return {each["device"]: each["state"] for each in cloud.operator().get(f"/v1/benchmark-jobs/{job}").json()["devices"]}


def test_forty_devices_of_four_machines_measure_once_per_machine_and_once_more_if_asked(
    trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path
) -> None:
    publish(trusting_cloud, publisher, tmp_path, "many")
    devices = [
        enrol_benchmarking(trusting_cloud, f"{machine}-{number}", tmp_path, machine, labels={"fleet": "many"})
        for machine in MACHINES
        for number in range(DEVICES_PER_MACHINE)
    ]
    measured = []
    for again in (False, True):
        job = create(trusting_cloud, model="many", labels={"fleet": "many"}, again=again).json()["job"]
        assert all(each.called() == {"job": job, "budget_s": 600.0} for each in devices)
        measured.append([each.machine for each in devices if each.work("many", job, TIMES)])
        assert set(state_of(trusting_cloud, job).values()) == {"done"}
        assert all(each.called() is None for each in devices)
    assert measured == [list(MACHINES), list(MACHINES)]
    stored = trusting_cloud.operator().get("/v1/benchmarks?model=many").json()
    assert {(each["fingerprint"], each["job"]) for each in stored} == {(machine, job) for machine in MACHINES}


def test_a_device_waits_while_another_with_the_same_machine_measures_and_takes_over_if_that_fails(
    trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path
) -> None:
    publish(trusting_cloud, publisher, tmp_path, "turns")
    first, second = (enrol_benchmarking(trusting_cloud, name, tmp_path, "turns") for name in ("turns-1", "turns-2"))
    job = create(trusting_cloud, model="turns", devices=["turns-1", "turns-2"]).json()["job"]
    assert first.claim("turns", job).json()["measure"] is True
    assert second.claim("turns", job).json() == {"measure": False, "envelope": None}
    assert first.progress(job, state="failed", reason="no memory").status == 204
    assert second.work("turns", job, TIMES) is True
    assert state_of(trusting_cloud, job) == {"turns-1": "failed", "turns-2": "done"}


def test_results_and_reports_without_an_open_job_or_by_another_device_change_nothing(
    trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path
) -> None:
    publish(trusting_cloud, publisher, tmp_path, "secure")
    member, other = (enrol_benchmarking(trusting_cloud, name, tmp_path, "secure") for name in ("member", "other"))
    job = create(trusting_cloud, model="secure", devices=["member"]).json()["job"]
    assert other.called() is None
    assert other.claim("secure", job).status == 403, "the job is not for this device"
    assert member.claim("many", job).status == 403, "the job is of another model"
    assert member.claim("secure", 2**70).status == 400, "no database holds such a number"
    assert other.post(f"benchmark-jobs/{job}/start", {}).status == 409
    assert other.progress(job, state="failed", reason="lie").status == 409
    assert member.claim("secure", job).json()["measure"] is True
    assert member.send("secure", job, TIMES, key=other.scripted.enrolled.certificate[1]).status == 403
    assert member.send("secure", None, TIMES).status == 403, "neither a job nor the desired state names the model"
    early = member.progress(job, state="done", reason="measured", basis=member.basis)
    assert (early.status, "must send its result before it finishes" in early.error) == (409, True)
    assert trusting_cloud.operator().get("/v1/benchmarks?model=secure").json() == []
    assert trusting_cloud.operator().post(f"/v1/benchmark-jobs/{job}/cancel").status == 200
    assert member.called() is None
    assert member.send("secure", job, TIMES).status == 403
    assert member.progress(job, state="failed", reason="late").status == 409
    assert state_of(trusting_cloud, job) == {"member": "canceled"}
    again = trusting_cloud.operator().post(f"/v1/benchmark-jobs/{job}/cancel")
    assert (again.status, "all of its devices have finished" in again.error) == (409, True)


def test_a_device_in_a_rollout_is_refused_by_name_and_waits_in_a_group(
    trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path
) -> None:
    publish(trusting_cloud, publisher, tmp_path, "busy")
    device = enrol_benchmarking(trusting_cloud, "busy-1", tmp_path, "busy", labels={"fleet": "busy"})
    operator = trusting_cloud.operator()
    rollout = operator.post("/v1/rollouts", {"model": "busy", "devices": ["busy-1"]}).json()["rollout"]
    refused = create(trusting_cloud, model="busy", devices=["busy-1"])
    assert (refused.status, f"it is in rollout {rollout}" in refused.error) == (409, True)
    job = create(trusting_cloud, model="busy", labels={"fleet": "busy"}).json()
    assert job["devices"][0]["reason"] == f"starts when rollout {rollout} has ended"
    assert device.called() is None
    assert operator.post(f"/v1/rollouts/{rollout}/abort").status == 200
    assert device.called()["job"] == job["job"]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        pytest.param({"model": "nothing"}, 404, "no model is called 'nothing'", id="unknown model"),
        pytest.param({"model": "plain", "devices": ["missing"]}, 404, "no device is called 'missing'", id="unknown device"),
        pytest.param({"model": "plain", "labels": {"a": "b"}}, 400, "no device with a=b is enrolled", id="empty group"),
        pytest.param({"model": "plain", "devices": ["dark"]}, 409, "dark must be online, but it is offline", id="offline"),
        pytest.param({"model": "plain", "devices": ["board"]}, 400, "must have a variant for board", id="no fitting variant"),
        pytest.param({"model": "plain", "budget_s": 0}, 400, "the time budget must be over 0", id="no time"),
        pytest.param({"model": "plain", "budget_bytes": 0}, 400, "the byte budget must be over 0", id="no bytes"),
    ],
)
def test_a_job_that_no_device_can_do_is_refused(
    trusting_cloud: RunningCloud,
    publisher: Path,
    tmp_path: Path,
    request_: dict[str, Any],
    status: int,
    message: str,
) -> None:
    operator = trusting_cloud.operator()
    if operator.get("/v1/models/plain").status != 200:
        publish(trusting_cloud, publisher, tmp_path, "plain")
        trusting_cloud.enrol("dark", tmp_path)
        enrol_benchmarking(trusting_cloud, "board", tmp_path, profile="npu-sim-8")
    answer = create(trusting_cloud, **request_)
    assert (answer.status, message in answer.error) == (status, True), answer.body
