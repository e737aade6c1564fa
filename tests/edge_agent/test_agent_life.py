"""One device through its life: receive, score, be updated, refuse what is bad, outlive what breaks. The agent is a process."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import urllib3

from edge_agent.deployment.journal import JOURNAL_FILE
from edgewright.contracts.messages import DeploymentState
from edgewright.contracts.signing import generate_key
from tests.edge_agent.conftest import Device
from tests.support.device_packages import Built, Recipe, build
from tests.support.fake_cloud import FakeCloud

S = DeploymentState


def scores_like(device: Device, built: Built) -> bool:
    return bool(np.allclose(device.score_patiently(built.samples), built.answers, rtol=1e-4, atol=1e-2))


def test_an_update_moves_only_what_changed_and_loses_no_request(cloud: FakeCloud, running: Device, v1: Built, v2: Built) -> None:
    first = cloud.wait_for(S.RUNNING)
    failures: list[BaseException] = []
    done = threading.Event()

    def score_always() -> None:
        while not done.is_set():
            try:
                running.score(v1.samples)
            except (AssertionError, urllib3.exceptions.HTTPError) as failed:
                failures.append(failed)
                return

    scoring = threading.Thread(target=score_always)
    scoring.start()
    cloud.publish(v2, 2)
    cloud.wish(v2, 2, trial_s=1.0)
    try:
        second = cloud.wait_for(S.RUNNING)
    finally:
        done.set()
        scoring.join(20)
    assert failures == []
    assert scores_like(running, v2)
    assert first.bytes_pulled > 600_000
    assert second.bytes_pulled < 0.2 * first.bytes_pulled
    assert second.choice == ("fp32 is chosen: generic-x86-64 prefers fp32 most.",)


def test_offline_the_last_version_runs_and_telemetry_waits_and_arrives_without_a_gap(
    cloud: FakeCloud, running: Device, v1: Built
) -> None:
    running.stop()
    cloud.stop()
    running.start()
    assert scores_like(running, v1)
    standing = running.standing()
    assert standing["agent_running"] is True
    assert standing["connection"].startswith("offline: the cloud must answer at")
    assert standing["reported"]["running"]["version"] == 1
    cloud.start()
    cloud.wait_until(lambda: len(cloud.measured) > 20, "telemetry did not arrive")
    assert sorted(cloud.measured) == list(range(1, len(cloud.measured) + 1))


def test_a_runner_that_is_killed_is_up_again_and_requests_wait_for_it(running: Device, v1: Built) -> None:
    (runner,) = running.runners()
    runner.kill()
    assert scores_like(running, v1)
    (again,) = running.runners()
    assert again.pid != runner.pid


def stranger(built: Built, cloud: FakeCloud) -> bytes:
    return built.envelope(2, generate_key())


def expired(built: Built, cloud: FakeCloud) -> bytes:
    return built.envelope(2, cloud.publisher, valid_s=-1)


@pytest.mark.parametrize(
    ("envelope", "told"),
    [pytest.param(stranger, "must be by a trusted key", id="stranger"), pytest.param(expired, "expired at", id="expired")],
)
def test_a_badly_signed_version_is_refused_with_the_reason_and_never_tried_again(
    cloud: FakeCloud, running: Device, v1: Built, v2: Built, envelope: Callable[[Built, FakeCloud], bytes], told: str
) -> None:
    cloud.publish(v2, 2, envelope=envelope(v2, cloud))
    cloud.wish(v2, 2)
    report = cloud.wait_for(S.REFUSED)
    assert told in report.reason
    assert report.running is not None
    assert report.running.version == 1
    running.stop()
    running.start()
    assert scores_like(running, v1)
    assert running.standing()["reported"]["state"] == "refused"


def test_a_changed_byte_is_refused(cloud: FakeCloud, running: Device, v1: Built, v2: Built) -> None:
    cloud.publish(v2, 2)
    cloud.faults.corrupt = {blob.digest for blob in v2.package.blobs()} - set(cloud.sent)
    cloud.wish(v2, 2)
    assert "must come from the registry unchanged" in cloud.wait_for(S.REFUSED).reason
    assert scores_like(running, v1)


def test_a_version_that_answers_wrongly_is_refused_before_anyone_meets_it(
    cloud: FakeCloud, running: Device, v1: Built, wrong: Built
) -> None:
    cloud.publish(wrong, 3)
    cloud.wish(wrong, 3)
    assert "must score the golden samples as its source does" in cloud.wait_for(S.REFUSED).reason
    assert scores_like(running, v1)


def test_a_model_that_cannot_be_loaded_is_refused(cloud: FakeCloud, running: Device, v1: Built, tmp_path: Path) -> None:
    broken = build(tmp_path / "broken", Recipe(graph=b"no graph at all"))
    cloud.publish(broken, 2)
    cloud.wish(broken, 2)
    assert cloud.wait_for(S.REFUSED).reason
    assert scores_like(running, v1)


def test_a_model_that_hangs_is_refused_when_its_time_is_up(cloud: FakeCloud, running: Device, v1: Built, tmp_path: Path) -> None:
    running.stop()
    text = (running.state / "agent.toml").read_text().replace("check_timeout_s = 20.0", "check_timeout_s = 0.05")
    (running.state / "agent.toml").write_text(text)
    running.start()
    late = build(tmp_path / "late", Recipe(head_seed=5))
    cloud.publish(late, 2)
    cloud.wish(late, 2)
    assert "did not finish within 0.05 s" in cloud.wait_for(S.REFUSED).reason
    assert scores_like(running, v1)


def test_a_lower_wish_or_one_of_another_key_or_device_changes_nothing(
    cloud: FakeCloud, running: Device, v1: Built, v2: Built
) -> None:
    cloud.publish(v2, 2)
    cloud.wish(v2, 2, key=generate_key(), desired_number=7)
    running.wait_for_refused_wish("must be by a trusted key")
    cloud.wish(v2, 2, device="cam-2", desired_number=8)
    running.wait_for_refused_wish("must be for cam-1, but it is for cam-2")
    told = [past for past in running.standing()["history"] if past["event"] == "refuse_wish"]
    reasons = " | ".join(past["reason"] for past in told)
    assert "must be by a trusted key" in reasons
    assert "must be for cam-1, but it is for cam-2" in reasons
    assert running.standing()["reported"]["desired_number"] == 1
    assert scores_like(running, v1)


def test_a_downgrade_needs_leave(cloud: FakeCloud, running: Device, v1: Built, v2: Built) -> None:
    cloud.publish(v2, 2)
    cloud.wish(v2, 2)
    cloud.wait_for(S.RUNNING)
    cloud.wish(v1, 1)
    assert "a downgrade must be allowed by the rollout" in cloud.wait_for(S.REFUSED).reason
    cloud.wish(v1, 1, allow_downgrade=True)
    cloud.wait_for(S.RUNNING)
    assert scores_like(running, v1)


def test_a_newer_wish_takes_the_place_of_a_pull_in_hand(cloud: FakeCloud, device: Device, v1: Built, v2: Built) -> None:
    cloud.publish(v1, 1)
    cloud.publish(v2, 2)
    cloud.faults.fail_status = 503
    device.start()
    cloud.wish(v1, 1)
    cloud.wait_until(lambda: any("answered 503" in r.reason for r in cloud.reports), "the failure was not reported")
    cloud.wish(v2, 2)
    cloud.faults.fail_status = None
    assert cloud.wait_for(S.RUNNING).desired_number == 2
    assert any(past["event"] == "supersede" for past in device.standing()["history"])


def test_kills_of_the_agent_and_of_the_cloud_in_mid_pull_cost_no_byte(cloud: FakeCloud, device: Device, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.cut_after_bytes = 150_000
    device.start()
    cloud.wish(v1, 1)
    large = max(v1.package.blobs(), key=lambda blob: blob.size)
    cloud.wait_until(lambda: cloud.sent[large.digest] >= 150_000, "the pull did not begin")
    device.kill()
    device.start()
    cloud.wait_until(lambda: cloud.sent[large.digest] >= 300_000, "the pull did not go on")
    cloud.stop()
    cloud.start()
    cloud.faults.cut_after_bytes = None
    report = cloud.wait_for(S.RUNNING)
    assert cloud.sent[large.digest] <= large.size + 2 * (1 << 16), "only what was in flight at a kill may move twice"
    assert report.attempt == 1, "a cut connection spends no attempt"


def test_a_damaged_journal_is_rebuilt_from_what_runs(cloud: FakeCloud, running: Device, v1: Built) -> None:
    running.stop()
    for name in (JOURNAL_FILE, f"{JOURNAL_FILE}-wal", f"{JOURNAL_FILE}-shm"):
        (running.state / name).unlink(missing_ok=True)
    (running.state / JOURNAL_FILE).write_bytes(b"torn" * 1000)
    (running.state / "active").unlink()
    cloud.stop()
    running.start()
    assert scores_like(running, v1)
    assert running.standing()["reported"]["desired_number"] == 1


def test_a_second_agent_on_the_same_state_is_refused(running: Device) -> None:
    second = running.command("run", "--port", "0")
    assert second.returncode == 2
    assert "one agent may live in" in second.stderr
    assert second.stderr.count("\n") == 1


def test_before_the_first_version_the_address_says_so(device: Device) -> None:
    device.start()
    answer = device.http.request("GET", f"{device.url}/score")
    assert answer.status == 503
    assert answer.json() == {"error": "this device has no model yet: roll one out to it, then ask again"}


def test_told_to_end_the_agent_ends_well_and_leaves_no_process(running: Device) -> None:
    assert running.stop() == 0
    assert running.runners() == []


def test_an_agent_that_is_killed_takes_its_runner_along_and_keeps_its_address(running: Device, v1: Built) -> None:
    url = running.url
    running.kill()
    running.start()
    assert running.url == url
    assert scores_like(running, v1)
    assert len(running.runners()) == 1


def test_status_is_readable_by_people_and_by_programs(running: Device) -> None:
    text = running.command("status", check=True).stdout
    assert "digits:1 fp32 on onnxruntime" in text
    told = json.loads(running.command("status", "--json", check=True).stdout)
    assert told["reported"]["state"] == "running"
    assert told["next_step"] == "wait: nothing to do until a newer version is wished"


def test_end_signal_during_a_pull_is_heeded(cloud: FakeCloud, device: Device, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.fail_status = 503
    device.start()
    cloud.wish(v1, 1)
    cloud.wait_until(lambda: any("answered 503" in r.reason for r in cloud.reports), "no attempt was made")
    assert device.process is not None
    device.process.send_signal(signal.SIGTERM)
    assert device.wait_for_death(20) == 0


def test_a_certificate_that_cannot_be_read_stops_no_scoring(running: Device, v1: Built) -> None:
    running.stop()
    (running.state / "identity" / "current" / "device.crt").write_text("torn")
    running.start()
    assert scores_like(running, v1)
    assert running.standing()["connection"].startswith("offline")
