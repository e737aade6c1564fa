"""Acceptance of the main job: `edgewright demo`, over MQTT and over HTTPS alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgewright.demo.reuse import check_reusable
from edgewright.errors import BadInputError
from tests.support.docker_engine import docker_engine

TIMEOUT_S = 600
STOP_S = 90
# A late demo must end before its test does; otherwise its devices keep running.
pytestmark = pytest.mark.timeout(TIMEOUT_S + STOP_S + 10)


@pytest.fixture(scope="module")
def finished() -> list[Path]:
    """Finished demos; a later demo reuses the models and packages of the first one."""
    return []


@pytest.fixture(scope="module", params=["mqtt", "https"])
def demo(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    require: Callable[[str], Path],
    finished: list[Path],
) -> Path:
    """Run the demo once per transport, once with an NPU board and a container engine and once without; return its directory."""
    directory = tmp_path_factory.mktemp(f"demo-{request.param}")
    words = ["--no-broker", "--no-npu"] if request.param == "https" else []
    words += ["--reuse", str(finished[0])] if finished else []
    words = ["--output", str(directory / "demo"), *words]
    if request.param == "https":
        run_to_its_end(words, directory, f"unix://{directory}/none.sock")
    else:
        require("mosquitto")
        require("verilator")
        with docker_engine(require) as engine:
            run_to_its_end(words, directory, engine.host)
            assert engine.run("ps", "--all", "--quiet") == engine.run("images", "--quiet") == ""
    finished.append(directory / "demo")
    return directory / "demo"


def run_to_its_end(words: list[str], directory: Path, engine: str) -> None:
    """Run the demo; after the time limit it gets SIGTERM, so that it ends its cloud and its devices."""
    log = directory / "demo.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgewright", "demo", *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "EDGEWRIGHT_TEST_RUN": str(directory), "DOCKER_HOST": engine},
        )
        try:
            code: int | None = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.terminate()
            process.wait(STOP_S)
    assert code == 0, log.read_text("utf-8", errors="replace")[-6000:]


@pytest.fixture(scope="module")
def summary(demo: Path) -> dict[str, Any]:
    """Return the summary of the demo."""
    document: dict[str, Any] = json.loads((demo / "summary.json").read_bytes())
    return document


def test_the_small_variants_agree_with_the_source(summary: dict[str, Any]) -> None:
    accuracy = {variant["name"]: variant["accuracy"] for variant in summary["variants"]}
    assert summary["source_accuracy"] > 0.97
    assert accuracy["fp32"] == summary["source_accuracy"]
    assert accuracy["fp16"] == summary["source_accuracy"]
    assert accuracy["int8"] >= summary["source_accuracy"] - 0.01


def test_int8_is_a_quarter_of_fp32(summary: dict[str, Any]) -> None:
    size = {variant["name"]: variant["size_bytes"] for variant in summary["variants"]}
    assert size["int8"] < size["fp32"] / 3
    assert size["fp16"] < size["fp32"] / 1.9


def test_each_device_runs_the_variant_for_its_hardware(summary: dict[str, Any]) -> None:
    variants = {device["profile"]: device["variant"] for device in summary["devices"] if device["profile"] != "npu-sim-8-large"}
    assert variants == {"x86-64-vnni": "int8", "jetson-orin-nano": "fp16", "generic-x86-64": "fp32"}


def test_every_device_scored_every_digit_as_the_source_model_does(summary: dict[str, Any]) -> None:
    scored = {device["id"]: device["scored"] for device in summary["devices"]}
    assert scored.pop("camera-1", 40) == 40  # the one with the simulated board, where there is one
    assert scored.pop("vehicle-1", 360) == 360  # the one with containers, where there is an engine
    assert scored == {"gateway-1": 360, "robot-1": 360, "kiosk-1": 360}
    assert min(device["agreement"] for device in summary["devices"]) >= 0.99


def test_an_update_of_the_head_moves_under_5_percent(summary: dict[str, Any]) -> None:
    assert 0 < summary["bytes_pulled"]["v2"] < 0.05 * summary["bytes_pulled"]["v1"]


def test_the_bad_version_touched_one_device_and_none_runs_it(summary: dict[str, Any]) -> None:
    assert summary["bad_version"]["halted"] is True
    assert summary["bad_version"]["devices_touched"] == 1
    assert "golden samples" in summary["bad_version"]["reason"]
    assert {device["version"] for device in summary["devices"]} == {2}


def test_pulling_the_cable_of_the_npu_board_loses_no_request(demo: Path, summary: dict[str, Any]) -> None:
    board = [device["variant"] for device in summary["devices"] if device["id"] == "camera-1"]
    with_board = "demo-mqtt" in str(demo)
    assert board == (["npu-sim-8-large"] if with_board else [])
    assert summary["npu_board"] == ({"requests": 24, "pulled_after": 10, "answered": 24} if with_board else None)


def test_the_device_with_containers_scores_in_one_without_network(demo: Path, summary: dict[str, Any]) -> None:
    with_engine = "demo-mqtt" in str(demo)
    assert [device["id"] for device in summary["devices"] if device["id"] == "vehicle-1"] == ["vehicle-1"] * with_engine
    log = (demo.parent / "demo.log").read_text()
    assert ("the demo continues without a device that runs containers" in log) is not with_engine
    assert (summary["container"] or {}).get("network") == ("none" if with_engine else None)


def test_the_endpoint_scores_with_its_key_alone(summary: dict[str, Any]) -> None:
    assert summary["endpoint"] == {"endpoint": "digits-service", "scored": 32, "agreement": 1.0, "without_key": 401}


def test_devices_reported_what_they_measured(summary: dict[str, Any]) -> None:
    assert summary["telemetry_messages"] > 0


def test_the_demo_leaves_nothing_running(demo: Path) -> None:
    marker = str(demo.parent)
    left = [process.info for process in psutil.process_iter(["pid", "cmdline"]) if started_by(process, marker)]
    assert left == []


def refusal(earlier: Path, directory: Path) -> str:
    with pytest.raises(BadInputError) as refused:
        check_reusable(earlier, directory, board_profile="npu-sim-8-large")
    return str(refused.value)


def test_a_demo_reuses_only_another_finished_demo_with_the_required_variants(tmp_path: Path) -> None:
    assert refusal(tmp_path, tmp_path) == f"--reuse must be a different directory than --output, but both are {tmp_path}"
    assert refusal(tmp_path, tmp_path / "next") == (
        f"{tmp_path} must hold a finished demo, but it does not: run edgewright demo --output {tmp_path}"
    )
    for name in ("build-v1", "build-v2", "package-v1", "package-v2"):
        (tmp_path / name).mkdir()
    (tmp_path / "summary.json").touch()
    assert refusal(tmp_path, tmp_path / "next") == (
        f"{tmp_path} must have a variant for npu-sim-8-large, but its demo had no NPU board: add --no-npu"
    )


def started_by(process: psutil.Process, marker: str) -> bool:
    """Return True if a process inherited this run's environment."""
    try:
        return bool(process.environ().get("EDGEWRIGHT_TEST_RUN") == marker)
    except psutil.Error:
        return False
