"""One device with a real agent process: it fetches, scores and updates, refuses bad versions, and survives faults."""

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
from edgewright.contracts.messages import DeploymentState, FailureCause
from edgewright.contracts.signing import generate_key
from tests.edge_agent.conftest import Device
from tests.support.device_packages import Built, Recipe, build
from tests.support.fake_cloud import FakeCloud

S = DeploymentState


def scores_match(device: Device, built: Built) -> bool:
    return bool(np.allclose(device.score_with_retries(built.samples), built.answers, rtol=1e-4, atol=1e-2))


def test_an_update_pulls_only_changed_blobs_and_loses_no_request(cloud: FakeCloud, running: Device, v1: Built, v2: Built) -> None:
    first = cloud.wait_for(S.RUNNING)
    failures: list[BaseException] = []
    done = threading.Event()

    def score_always() -> None:
        while not done.is_set():
            try:
                running.score(v1.samples)
            except (AssertionError, urllib3.exceptions.HTTPError) as error:
                failures.append(error)
                return

    scoring = threading.Thread(target=score_always)
    scoring.start()
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2, trial_s=1.0)
    try:
        second = cloud.wait_for(S.RUNNING)
    finally:
        done.set()
        scoring.join(20)
    assert failures == []
    assert scores_match(running, v2)
    assert first.bytes_pulled > 600_000
    assert second.bytes_pulled < 0.2 * first.bytes_pulled
    assert second.choice == ("fp32 is chosen: generic-x86-64 prefers fp32 most.",)


def test_offline_the_last_version_runs_and_telemetry_is_delivered_later_without_a_gap(
    cloud: FakeCloud, running: Device, v1: Built
) -> None:
    running.stop()
    cloud.stop()
    running.start()
    assert scores_match(running, v1)
    status = running.explain()
    assert status["agent_running"] is True
    assert status["connection"].startswith("offline: cannot connect to the cloud at")
    assert status["reported"]["running"]["version"] == 1
    cloud.start()
    cloud.wait_until(lambda: len(cloud.measurements) > 20, "telemetry was not delivered")
    assert sorted(cloud.measurements) == list(range(1, len(cloud.measurements) + 1))


def test_a_killed_runner_is_restarted_and_requests_wait_for_it(running: Device, v1: Built) -> None:
    (runner,) = running.runners()
    runner.kill()
    assert scores_match(running, v1)
    (restarted,) = running.runners()
    assert restarted.pid != runner.pid


def signed_by_another_key(built: Built, cloud: FakeCloud) -> bytes:
    return built.envelope(2, generate_key())


def expired(built: Built, cloud: FakeCloud) -> bytes:
    return built.envelope(2, cloud.publisher, valid_s=-1)


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        pytest.param(signed_by_another_key, "must be by a trusted key", id="another key"),
        pytest.param(expired, "expired at", id="expired"),
    ],
)
def test_a_version_with_an_invalid_signature_is_refused_with_the_reason_and_never_retried(
    cloud: FakeCloud, running: Device, v1: Built, v2: Built, envelope: Callable[[Built, FakeCloud], bytes], message: str
) -> None:
    cloud.publish(v2, 2, envelope=envelope(v2, cloud))
    cloud.set_desired(v2, 2)
    report = cloud.wait_for(S.REFUSED)
    assert message in report.reason
    assert report.cause is FailureCause.TRUST
    assert report.running is not None
    assert report.running.version == 1
    running.stop()
    running.start()
    assert scores_match(running, v1)
    assert running.explain()["reported"]["state"] == "refused"


def test_a_version_with_a_changed_byte_is_refused(cloud: FakeCloud, running: Device, v1: Built, v2: Built) -> None:
    cloud.publish(v2, 2)
    cloud.faults.corrupt = {blob.digest for blob in v2.files()} - set(cloud.sent)
    cloud.set_desired(v2, 2)
    assert "must come from the registry unchanged" in cloud.wait_for(S.REFUSED).reason
    assert scores_match(running, v1)


def test_a_version_with_wrong_outputs_is_refused_before_it_scores(
    cloud: FakeCloud, running: Device, v1: Built, wrong_outputs: Built
) -> None:
    cloud.publish(wrong_outputs, 3)
    cloud.set_desired(wrong_outputs, 3)
    report = cloud.wait_for(S.REFUSED)
    assert "must score the golden samples as its source does" in report.reason
    assert report.cause is FailureCause.PACKAGE
    assert scores_match(running, v1)


def test_a_model_that_cannot_be_loaded_is_refused(cloud: FakeCloud, running: Device, v1: Built, tmp_path: Path) -> None:
    broken = build(tmp_path / "broken", Recipe(graph=b"no graph at all"))
    cloud.publish(broken, 2)
    cloud.set_desired(broken, 2)
    assert cloud.wait_for(S.REFUSED).cause is FailureCause.PACKAGE
    assert scores_match(running, v1)


def test_a_model_that_hangs_is_refused_after_the_timeout(cloud: FakeCloud, running: Device, v1: Built, tmp_path: Path) -> None:
    running.stop()
    text = (running.state / "agent.toml").read_text().replace("check_timeout_s = 20.0", "check_timeout_s = 0.05")
    (running.state / "agent.toml").write_text(text)
    running.start()
    late = build(tmp_path / "late", Recipe(head_seed=5))
    cloud.publish(late, 2)
    cloud.set_desired(late, 2)
    report = cloud.wait_for(S.REFUSED)
    assert "did not finish within 0.05 s" in report.reason
    assert report.cause is FailureCause.DEVICE
    assert scores_match(running, v1)


def test_a_desired_state_of_another_key_or_device_is_rejected(cloud: FakeCloud, running: Device, v1: Built, v2: Built) -> None:
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2, key=generate_key(), desired_number=7)
    running.wait_for_rejected_state("must be by a trusted key")
    cloud.set_desired(v2, 2, device="cam-2", desired_number=8)
    running.wait_for_rejected_state("must be for cam-1, but it is for cam-2")
    rejected = [past for past in running.explain()["history"] if past["event"] == "reject_desired"]
    reasons = " | ".join(past["reason"] for past in rejected)
    assert "must be by a trusted key" in reasons
    assert "must be for cam-1, but it is for cam-2" in reasons
    assert running.explain()["reported"]["desired_number"] == 1
    assert scores_match(running, v1)


def test_a_downgrade_must_be_allowed(cloud: FakeCloud, running: Device, v1: Built, v2: Built) -> None:
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2)
    cloud.wait_for(S.RUNNING)
    cloud.set_desired(v1, 1)
    report = cloud.wait_for(S.REFUSED)
    assert "allow a downgrade in the rollout" in report.reason
    assert report.cause is FailureCause.CALLER
    cloud.set_desired(v1, 1, allow_downgrade=True)
    cloud.wait_for(S.RUNNING)
    assert scores_match(running, v1)


def test_a_newer_desired_state_cancels_a_pull_in_progress(cloud: FakeCloud, device: Device, v1: Built, v2: Built) -> None:
    cloud.publish(v1, 1)
    cloud.publish(v2, 2)
    cloud.faults.fail_status = 503
    device.start()
    cloud.set_desired(v1, 1)
    cloud.wait_until(lambda: any("answered 503" in r.reason for r in cloud.reports), "the failure was not reported")
    cloud.set_desired(v2, 2)
    cloud.faults.fail_status = None
    assert cloud.wait_for(S.RUNNING).desired_number == 2
    assert any(past["event"] == "supersede" for past in device.explain()["history"])


def test_a_pull_continues_without_loss_after_kills_of_the_agent_and_the_cloud(
    cloud: FakeCloud, device: Device, v1: Built
) -> None:
    cloud.publish(v1, 1)
    part = cloud.faults.cut_after_bytes = 75_000
    device.start()
    cloud.set_desired(v1, 1)
    large = max(v1.files(), key=lambda blob: blob.size)
    cloud.wait_until(lambda: cloud.sent[large.digest] >= 2 * part, "the pull did not start")
    device.kill()
    device.start()
    cloud.wait_until(lambda: cloud.sent[large.digest] >= 4 * part, "the pull did not continue")
    cloud.stop()
    cloud.start()
    cloud.faults.cut_after_bytes = None
    report = cloud.wait_for(S.RUNNING)
    assert cloud.sent[large.digest] <= large.size + 2 * part, "only the response in flight at each of two kills may be sent twice"
    assert report.attempt == 1, "a lost connection must not count as an attempt"


def test_a_damaged_journal_is_rebuilt_from_the_active_slot(cloud: FakeCloud, running: Device, v1: Built) -> None:
    running.stop()
    for name in (JOURNAL_FILE, f"{JOURNAL_FILE}-wal", f"{JOURNAL_FILE}-shm"):
        (running.state / name).unlink(missing_ok=True)
    (running.state / JOURNAL_FILE).write_bytes(b"torn" * 1000)
    (running.state / "workloads" / "digits" / "active").unlink()
    cloud.stop()
    running.start()
    assert scores_match(running, v1)
    assert running.explain()["reported"]["desired_number"] == 1


def test_a_second_agent_on_the_same_state_directory_is_rejected(running: Device) -> None:
    second = running.command("run", "--port", "0")
    assert second.returncode == 2
    assert "only one agent may use" in second.stderr
    assert second.stderr.count("\n") == 1


def test_before_the_first_version_the_scoring_address_answers_503(device: Device) -> None:
    device.start()
    response = device.http.request("GET", f"{device.url}/score")
    assert response.status == 503
    assert response.json() == {"error": "this device has no model yet: roll one out to it, then try again"}


def test_after_sigterm_the_agent_exits_with_0_and_leaves_no_process(running: Device) -> None:
    assert running.stop() == 0
    assert running.runners() == []


def test_the_runner_of_a_killed_agent_exits_and_the_next_agent_keeps_the_address(running: Device, v1: Built) -> None:
    url = running.url
    running.kill()
    running.start()
    assert running.url == url
    assert scores_match(running, v1)
    assert len(running.runners()) == 1


def test_status_is_readable_by_people_and_by_programs(running: Device) -> None:
    text = running.command("status", check=True).stdout
    assert "digits:1 fp32 on onnxruntime" in text
    status = json.loads(running.command("status", "--json", check=True).stdout)
    assert status["reported"]["state"] == "running"
    assert status["next_step"] == "wait: no newer version requested"


def test_sigterm_during_a_pull_stops_the_agent(cloud: FakeCloud, device: Device, v1: Built) -> None:
    cloud.publish(v1, 1)
    cloud.faults.fail_status = 503
    device.start()
    cloud.set_desired(v1, 1)
    cloud.wait_until(lambda: any("answered 503" in r.reason for r in cloud.reports), "no attempt was made")
    assert device.process is not None
    device.process.send_signal(signal.SIGTERM)
    assert device.wait_for_exit(20) == 0


def test_an_unreadable_certificate_does_not_stop_scoring(running: Device, v1: Built) -> None:
    running.stop()
    (running.state / "identity" / "current" / "device.crt").write_text("torn")
    running.start()
    assert scores_match(running, v1)
    assert running.explain()["connection"].startswith("offline")
