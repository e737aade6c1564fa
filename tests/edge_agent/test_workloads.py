"""Several workloads on one device: each has its own version, runner and deployments, and none changes another one."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import urllib3

from edge_agent.deployment.journal import JOURNAL_FILE
from edge_agent.settings import SETTINGS_FILE
from edge_agent.state_directory import STATUS_FILE
from edge_agent.storage.links import ACTIVE, LAST_GOOD
from edge_agent.storage.store import SLOT_FILE
from edgewright.contracts.messages import DeploymentState, FailureCause
from tests.edge_agent.conftest import Device
from tests.support.device_packages import Built
from tests.support.fake_cloud import FakeCloud

S = DeploymentState


@contextmanager
def scoring_without_failure(device: Device, built: Built) -> Iterator[None]:
    """Score with the first workload all the time; no request may fail."""
    failures: list[BaseException] = []
    done = threading.Event()

    def score_always() -> None:
        while not done.is_set():
            try:
                device.score(built.samples)
            except (AssertionError, urllib3.exceptions.HTTPError) as error:
                failures.append(error)
                return

    scoring = threading.Thread(target=score_always)
    scoring.start()
    try:
        yield
    finally:
        done.set()
        scoring.join(20)
    assert failures == []


@pytest.fixture
def beside(cloud: FakeCloud, running: Device, v1: Built) -> Device:
    """A device that runs version 1 as two workloads: digits and ocr."""
    cloud.set_desired(v1, 1, workload="ocr")
    cloud.wait_for(S.RUNNING)
    return running


def test_a_second_workload_runs_beside_the_first_which_keeps_its_runner_and_loses_no_request(
    cloud: FakeCloud, running: Device, v1: Built, v2: Built
) -> None:
    (before,) = running.runners("1")
    cloud.publish(v2, 2)
    with scoring_without_failure(running, v1):
        cloud.set_desired(v2, 2, workload="ocr")
        report = cloud.wait_for(S.RUNNING)
    assert [(each.workload, each.desired_number) for each in report.workloads or ()] == [("digits", 1), ("ocr", 2)]
    assert [each.running and each.running.version for each in report.workloads or ()] == [1, 2]
    assert (running.runs("digits", v1), running.runs("ocr", v2)) == (1, 2)
    assert running.runners("1") == [before]
    cloud.wait_until(
        lambda: {m.labels.get("workload") for m in cloud.measurements.values() if m.name == "runner_rss"} == {"digits", "ocr"},
        "telemetry does not name both workloads",
    )


def test_a_version_of_one_workload_that_fails_its_trial_changes_only_that_workload(
    cloud: FakeCloud, beside: Device, v1: Built, v2: Built
) -> None:
    (before,) = beside.runners("1")
    cloud.publish(v2, 2)
    with scoring_without_failure(beside, v1):
        cloud.set_desired(v2, 2, workload="ocr", trial_s=120.0)
        cloud.wait_for(S.TRIAL)
        beside.end_runners_until("3", lambda: cloud.last_report().state in (S.ROLLING_BACK, S.ROLLED_BACK))
        report = cloud.wait_for(S.ROLLED_BACK)
    digits, ocr = report.workloads or ()
    assert (digits.state, ocr.state) == (S.RUNNING, S.ROLLED_BACK)
    assert (ocr.running and ocr.running.version, beside.runners("1")) == (1, [before])
    assert beside.runs("ocr", v1) == 3


def test_a_version_that_would_starve_another_workload_is_refused_and_names_it(
    cloud: FakeCloud, running: Device, v1: Built, v2: Built
) -> None:
    running.stop()
    with (running.state / SETTINGS_FILE).open("a") as settings:
        settings.write("memory_limit_bytes = 1000000\n")
    running.start()
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2, workload="ocr")
    report = cloud.wait_for(S.REFUSED)
    assert "beside the other workloads, but 0.0 MB are free: digits (" in report.reason
    assert report.reason.endswith(") would have to give way")
    assert report.cause is FailureCause.DEVICE
    cloud.set_desired(v2, 2)
    cloud.wait_for(S.RUNNING)
    assert running.runs("digits", v2) == 3


def test_a_workload_that_is_missing_in_the_desired_state_is_removed_with_its_slot(
    cloud: FakeCloud, beside: Device, v1: Built
) -> None:
    with scoring_without_failure(beside, v1):
        cloud.remove_workload("ocr")
        cloud.wait_until(
            lambda: [each.workload for each in cloud.last_report().workloads or ()] == ["digits"], "ocr was not removed"
        )
        cloud.wait_until(lambda: not (beside.state / "slots" / "2").exists(), "the slot was not removed")
    assert beside.runners("2") == []
    beside.stop()
    beside.start()
    assert [each["workload"] for each in beside.explain()["workloads"]] == ["digits"]


def test_changes_of_two_workloads_that_came_at_once_survive_a_kill_before_the_second(
    cloud: FakeCloud, beside: Device, v1: Built, v2: Built
) -> None:
    beside.stop()
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2)
    cloud.set_desired(v2, 2, workload="ocr")
    beside.start(failpoint="start.accept.after")
    beside.wait_for_exit()
    beside.start()
    cloud.wait_until(
        lambda: [each.state for each in cloud.last_report().workloads or () if each.desired_number > 2] == [S.RUNNING, S.RUNNING],
        "not both changes were made",
    )
    assert (beside.runs("digits", v2), beside.runs("ocr", v2)) == (3, 4)


def test_the_agents_address_has_a_path_for_each_workload_and_names_them_for_any_other(
    cloud: FakeCloud, running: Device, v1: Built, v2: Built
) -> None:
    own_path = running.http.request("GET", f"{running.url}/v2/models/digits/ready")
    assert (own_path.status, running.runs("digits", v1), routers(running)) == (200, 1, [])
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2, workload="ocr")
    cloud.wait_for(S.RUNNING)
    (router,) = routers(running)
    statistics = [running.http.request("GET", f"{running.url}/w/{name}/stats").json() for name in ("digits", "ocr")]
    assert [each["version"] for each in statistics] == [1, 2]
    assert running.http.request("GET", f"{running.url}/v2/models/ocr/ready").status == 200
    assert b'version="2"' in running.http.request("GET", f"{running.url}/w/ocr/metrics").data
    assert running.http.request("GET", f"{running.url}/stats").json()["version"] == 1, "the first keeps the paths without a name"
    unknown = running.http.request("POST", f"{running.url}/w/orc/score", body=b"x" * 2_000_000)
    assert unknown.status == 404
    assert unknown.json() == {"error": "no workload is called 'orc'; workloads of this device: digits, ocr"}
    router.kill()
    assert (running.runs("digits", v1), running.runs("ocr", v2)) == (1, 2)


def routers(device: Device) -> list[psutil.Process]:
    """Return the routers of a device."""
    commands = [(each, each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
    status_file = str(device.state / STATUS_FILE)
    return [each for each, command in commands if "edge_agent.scoring.router" in command and status_file in command]


def test_both_workloads_keep_their_addresses_and_run_offline(cloud: FakeCloud, beside: Device, v1: Built) -> None:
    before = [each["scoring_url"] for each in beside.explain()["workloads"]]
    beside.kill()
    cloud.stop()
    beside.start()
    assert [each["scoring_url"] for each in beside.explain()["workloads"]] == before
    assert (beside.runs("digits", v1), beside.runs("ocr", v1)) == (1, 2)
    text = beside.command("status", check=True).stdout
    assert text.count("digits:1 fp32 on onnxruntime") == 2


def as_single(state: Path) -> None:
    """Give a state directory the form that it had when an agent knew one workload."""
    for link in (ACTIVE, LAST_GOOD):
        (state / "workloads" / "digits" / link).unlink()
        (state / link).symlink_to(Path("slots") / "1")
    (state / "workloads" / "digits").rmdir()
    (state / "workloads").rmdir()
    record = state / "slots" / "1" / SLOT_FILE
    slot = json.loads(record.read_bytes())
    without = {name: value for name, value in slot["desired"].items() if name not in ("workload", "workloads")}
    record.chmod(0o644)
    record.write_text(json.dumps({**slot, "desired": without}))
    with closing(sqlite3.connect(state / JOURNAL_FILE)) as journal:
        journal.execute("UPDATE deployments SET desired = ?", (json.dumps(without),))
        journal.execute("ALTER TABLE deployments DROP COLUMN workload")
        journal.execute("ALTER TABLE events DROP COLUMN workload")
        journal.execute("DROP TABLE device")
        journal.commit()


def named(cloud: FakeCloud, v1: Built) -> str:
    """Return the name that the cloud gives to the workload with its next message."""
    cloud.workloads = {"reader": replace(cloud.workloads["digits"], workload="reader")}
    cloud.set_desired(v1, 1, workload="reader", desired_number=1)
    return "reader"


def unnamed(cloud: FakeCloud, v1: Built) -> str:
    """Return the name of the workload of a cloud that knows one per device."""
    return "digits"


@pytest.mark.parametrize("name", [named, unnamed])
def test_a_state_directory_of_an_agent_that_knew_one_workload_is_taken_over(
    cloud: FakeCloud, running: Device, v1: Built, v2: Built, name: Callable[[FakeCloud, Built], str]
) -> None:
    running.stop()
    as_single(running.state)
    cloud.stop()
    running.start()
    assert running.runs("digits", v1) == 1
    workload = name(cloud, v1)
    cloud.publish(v2, 2)
    with scoring_without_failure(running, v1):
        cloud.start()
        cloud.wait_until(
            lambda: [each.workload for each in cloud.last_report().workloads or ()] == [workload], "the name was not taken over"
        )
    cloud.set_desired(v2, 2, workload=workload)
    cloud.wait_for(S.RUNNING)
    assert running.runs(workload, v2) == 2
    assert not (running.state / ACTIVE).is_symlink()


def test_a_cloud_that_knows_one_workload_replaces_the_only_one(cloud: FakeCloud, running: Device, v1: Built, v2: Built) -> None:
    cloud.publish(v2, 2)
    cloud.single = True
    with scoring_without_failure(running, v1):
        cloud.set_desired(v2, 2, workload="another-model")
        cloud.wait_for(S.RUNNING)
    assert running.runs("digits", v2) == 2
