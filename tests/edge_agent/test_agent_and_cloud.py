"""The agent with the real cloud and a real broker: P10 to P13, P31, P40, P50, P60 to P62."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.edge_agent.conftest import Device
from tests.support.device_packages import Built
from tests.support.real_fleet import NAME, WAIT_S, fleet, runs
from tests.support.running_cloud import start


def test_over_https_a_device_receives_scores_and_reports(tmp_path: Path, v1: Built) -> None:
    with fleet(tmp_path, "--no-broker") as here:
        here.publish(v1, 1)
        here.device.start("--transport", "auto")
        here.set_desired(v1, 1)
        record = here.record_when(lambda record: runs(1)(record) and record["telemetry_count"] > 0)
        assert record["online"] is True
        assert record["reported"]["choice"] == ["fp32 is chosen: generic-x86-64 prefers fp32 most."]
        assert np.allclose(here.device.score_with_retries(v1.samples), v1.answers, rtol=1e-4, atol=1e-2)
        assert here.device.explain()["connection"] == "online over https"


def test_over_mqtt_a_device_receives_falls_back_to_https_and_returns(
    tmp_path: Path, v1: Built, v2: Built, require: Callable[[str], Path]
) -> None:
    require("mosquitto")
    with fleet(tmp_path) as here:
        here.publish(v1, 1)
        here.device.start("--transport", "auto")
        here.set_desired(v1, 1)
        here.record_when(lambda record: runs(1)(record) and record["telemetry_count"] > 0)
        assert here.device.explain()["connection"] == "online over mqtt"
        broker = next(child for child in psutil.Process(here.cloud.process.pid).children() if child.name() == "mosquitto")
        broker.kill()
        here.publish(v2, 2)
        here.set_desired(v2, 2)
        here.record_when(runs(2))
        assert "lost transport=mqtt" in here.device.log()
        wait_until(lambda: here.device.explain()["connection"] == "online over mqtt", here.device.log)


def test_a_killed_device_is_offline_by_its_last_will(tmp_path: Path, v1: Built, require: Callable[[str], Path]) -> None:
    require("mosquitto")
    with fleet(tmp_path) as here:
        here.device.start("--transport", "mqtt")
        here.record_when(lambda record: record["online"] is True)
        here.device.kill()
        here.record_when(lambda record: record["online"] is False)


def test_a_device_continues_after_the_cloud_was_killed_and_restarted(tmp_path: Path, v1: Built) -> None:
    with fleet(tmp_path, "--no-broker") as here:
        here.publish(v1, 1)
        here.set_desired(v1, 1)
        here.cloud.kill()
        here.device.start("--transport", "auto")
        wait_until(lambda: "could not connect" in here.device.log(), here.device.log)
        restarted = start(here.cloud.state, "--no-broker")
        try:
            here.cloud = restarted
            here.record_when(runs(1))
        finally:
            restarted.stop()
            assert restarted.process.stdout is not None
            restarted.process.stdout.close()


@pytest.mark.parametrize(
    ("token", "message"),
    [
        pytest.param("nonsense", "an enrolment token starts with 'ew1.'", id="nonsense"),
        pytest.param("ew1.AAAA", "the enrolment token cannot be read", id="damaged"),
    ],
)
def test_an_invalid_token_is_one_line_and_exit_2(tmp_path: Path, token: str, message: str) -> None:
    device = Device(tmp_path / "device", NAME)
    finished = device.command("enrol", "--token", token, "--name", NAME, "--profile", "generic-x86-64")
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not device.state.exists()


def wait_until(holds: Callable[[], bool], context: Callable[[], str]) -> None:
    """Poll a condition that depends on another program, which sends no notification."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, context()
        time.sleep(0.2)
