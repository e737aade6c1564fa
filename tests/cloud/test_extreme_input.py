"""Input at the limits of its format is a refusal with 400, never 500, and never reaches the log unescaped (protocol.md P3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.running_cloud import EnrolledDevice, Http, RunningCloud, running

DEEP = [b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}", b"[" * 30_000, b'{"x":' * 10_000]
OUT_OF_RANGE = [
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
]
MEASUREMENT = {"sequence": 1, "name": "n", "value": 1.0, "unit": "u"}
REPORT = {"device": "edge", "desired_number": 0, "state": None, "reason": "", "since": "2026-01-01T00:00:00Z", "sequence": 1}


@pytest.fixture(scope="module")
def device(cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> EnrolledDevice:
    return cloud.enrol("edge", tmp_path_factory.mktemp("edge"))


def callers(cloud: RunningCloud, device: EnrolledDevice) -> dict[str, Http]:
    return {"operator": cloud.operator(), "device": device.http, "anonymous": cloud.anonymous()}


@pytest.mark.parametrize("raw", DEEP, ids=["array", "not closed", "objects"])
@pytest.mark.parametrize(
    ("caller", "method", "path"),
    [
        ("anonymous", "POST", "/v1/enrol"),
        ("anonymous", "POST", "/v1/renew"),
        ("device", "POST", "/v1/device/reported"),
        ("device", "POST", "/v1/device/telemetry"),
        ("device", "POST", "/v1/device/certificate"),
        ("operator", "POST", "/v1/tokens"),
        ("operator", "POST", "/v1/rollouts"),
        ("operator", "POST", "/v1/rollouts/forgive"),
        ("operator", "PUT", "/v1/devices/edge/labels"),
        ("operator", "POST", "/v1/models/digits/versions"),
        ("operator", "PUT", "/v2/nested/manifests/1"),
    ],
)
def test_json_that_is_nested_deep_is_refused(
    cloud: RunningCloud, device: EnrolledDevice, caller: str, method: str, path: str, raw: bytes
) -> None:
    headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    answer = callers(cloud, device)[caller].send(method, path, raw, headers)
    assert answer.status == 400
    assert "\n" not in answer.error


@pytest.mark.parametrize("instant", OUT_OF_RANGE)
def test_an_instant_that_cannot_be_converted_is_refused(cloud: RunningCloud, device: EnrolledDevice, instant: str) -> None:
    batch = {"device": "edge", "queue_id": "q", "measurements": [{**MEASUREMENT, "at": instant}]}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("telemetry", batch),
        ("reported", {**REPORT, "since": instant}),
        ("reported", {**REPORT, "next_retry_at": instant}),
    ]
    answers = [device.http.post(f"/v1/device/{path}", body) for path, body in bodies]
    answers.append(cloud.operator().get(f"/v1/telemetry?since={instant.replace('+', '%2B')}"))
    assert [answer.status for answer in answers] == [400, 400, 400, 400]
    assert all("must be a timestamp of the years 2 to 9998" in answer.error for answer in answers)


@pytest.mark.parametrize("field", ["soak_s", "trial_s", "device_timeout_s"])
@pytest.mark.parametrize("time_s", [1e308, 1e12])
def test_a_time_that_no_rollout_can_wait_for_is_refused(cloud: RunningCloud, field: str, time_s: float) -> None:
    answer = cloud.operator().post("/v1/rollouts", {"model": "digits", field: time_s})
    assert answer.status == 400
    assert answer.error.startswith("the times of a rollout must be at most 316224000 s (ten years)")


def test_control_characters_of_a_caller_are_escaped_in_the_log(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--no-broker") as cloud:
        for path in ("/v1/models/%1B%5B31m%0D%0AI%20forged", "/v1/models/%C2%9B31m%E2%80%A8x"):
            assert cloud.operator().get(path).status in (400, 404)
        cloud.stop()
        log = cloud.log.read_text("utf-8")
    assert r"\x1b[31m\r\nI forged" in log
    assert r"\x9b31m\u2028x" in log
    assert not {each for each in log if not each.isprintable()} - {"\n"}
