"""`edgewright bench` with devices of the fleet, against a real cloud."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import CommandLine
from tests.support.benchmarking_devices import enrol_benchmarking
from tests.support.running_cloud import RunningCloud


def test_a_job_is_made_for_a_group_and_shown_per_device_and_per_machine(
    edgewright: CommandLine, trusting_cloud: RunningCloud, publish: Callable[[str], Any], tmp_path: Path
) -> None:
    publish("timed")
    first, second, third = (
        enrol_benchmarking(trusting_cloud, f"timed-{number}", tmp_path, machine, labels={"fleet": "timed"})
        for number, machine in enumerate(("m1 x4", "m1 x4", "m2 x2"), 1)
    )
    words = "timed:1", "--group", "fleet=timed", "--budget-mb", "2.5", "--budget", "30s", "--no-wait"
    created = edgewright.ok("bench", *words)
    job = int(created.split()[1].rstrip(":"))
    assert created.splitlines()[-1] == f"next: edgewright bench --job {job}, or edgewright bench --cancel {job}"
    assert first.called() == {"job": job, "budget_s": 30.0}
    order = first.post(f"benchmark-jobs/{job}/start", {}).json()
    assert (order["version"], order["budget_bytes"]) == (1, 2_500_000)
    for device, times in ((first, {"fp32": 4.0, "int8": 1.5}), (second, {}), (third, {"fp32": 8.0})):
        device.work("timed", job, times)
    assert edgewright.ok("bench", "--job", job).splitlines() == [
        f"job {job}: timed:1 on 3 devices",
        "device   state  variant  median ms  fastest  measured by  reason",
        "timed-1  done   int8         1.500  yes      timed-1      measured",
        "timed-1  done   fp32         4.000  -        timed-1      measured",
        "timed-2  done   int8         1.500  yes      timed-1      measured",
        "timed-2  done   fp32         4.000  -        timed-1      measured",
        "timed-3  done   fp32         8.000  yes      timed-3      measured",
        "",
        "machine  variant  median ms  fastest  measured by  devices",
        "m1 x4    int8         1.500  yes      timed-1            2",
        "m1 x4    fp32         4.000  -        timed-1            2",
        "m2 x2    fp32         8.000  yes      timed-3            1",
    ]


def test_an_offline_device_waits_only_if_asked_and_a_canceled_job_stays_so(
    edgewright: CommandLine, trusting_cloud: RunningCloud, publish: Callable[[str], Any], tmp_path: Path
) -> None:
    publish("awaited")
    trusting_cloud.enrol("away", tmp_path)
    assert "device away must be online, but it is offline" in edgewright.refused("bench", "awaited:1", "--device", "away")
    job = edgewright.json("bench", "awaited:1", "--device", "away", "--no-wait")
    assert job["devices"][0]["reason"] == "offline: starts when the device connects"
    assert edgewright.json("bench", "--job", job["job"])["devices"][0]["state"] == "waiting", "no online device has to measure"
    assert edgewright.json("bench", "--cancel", job["job"])["devices"][0]["state"] == "canceled"
    assert "all of its devices have finished" in edgewright.refused("bench", "--cancel", job["job"])


def test_a_job_that_failed_on_all_devices_ends_with_exit_code_1(
    edgewright: CommandLine, trusting_cloud: RunningCloud, publish: Callable[[str], Any], tmp_path: Path
) -> None:
    publish("failing")
    device = enrol_benchmarking(trusting_cloud, "failing-1", tmp_path)
    job = edgewright.json("bench", "failing:1", "--device", "failing-1", "--no-wait")["job"]
    assert device.progress(job, state="failed", reason="no backend runs it").status == 204
    shown = edgewright.run("bench", "--job", job, "--json")
    assert (shown.exit_code, json.loads(shown.stdout)["devices"][0]["state"]) == (1, "failed")
    assert shown.stderr == f"edgewright: job {job} must have a result, but all of its devices failed: no backend runs it\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["some:1", "--device", "a", "--all"], "one of --device, --group, --all, --job and --cancel", id="two ways"),
        pytest.param(["--device", "a"], "must name the version to measure", id="no version"),
        pytest.param(["some:1", "--job", "3"], "must have no version with --job or --cancel", id="job and version"),
        pytest.param(["some:1", "--device", "a", "--runs", "5"], "--runs must be left out on devices", id="local option"),
        pytest.param(["some:1", "--again"], "must come with --device, --group or --all", id="remote option"),
        pytest.param(["some:1", "--device", "a", "--budget-mb", "0"], "the byte budget must be over 0, not 0", id="no bytes"),
        pytest.param(["--job", "999"], "no benchmark job has the number 999", id="unknown job"),
        pytest.param(["some:1", "--all"], "no model is called 'some'", id="unknown model"),
        pytest.param([], "must have a model file, a build directory or a package", id="nothing"),
    ],
)
def test_bad_input_is_one_line(edgewright: CommandLine, words: list[str], message: str) -> None:
    assert message in edgewright.refused("bench", *words)
