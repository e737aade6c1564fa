"""Benchmark jobs with the real cloud and a real agent: results, budgets, and a deployment that goes first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge_agent.settings import SETTINGS_FILE
from edge_agent.storage.store import Store
from edgewright.cli import main
from edgewright.contracts.connection.benchmark_jobs import BenchmarkJobRecord, JobState
from edgewright.contracts.variant import LayerKind, Precision
from edgewright.sdk import CloudClient
from tests.edge_agent.conftest import Device
from tests.support.device_packages import Built, Recipe, build
from tests.support.real_fleet import NAME, Fleet, fleet, runs

ONE_BACKEND = '\nbackend = "onnxruntime"\nthreads = 1\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def three_variants(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A package with a slow variant, which the profile prefers, a fast one and one that cannot be loaded."""
    recipe = Recipe(others=(Precision.INT8, Precision.INT8_DYNAMIC), slow=("fp32",), broken=("int8-dynamic",))
    return build(tmp_path_factory.mktemp("three"), recipe)


def bench(here: Fleet, *words: str) -> Any:
    result = CliRunner().invoke(main, ["bench", *words, "--json"], env={"EDGEWRIGHT_CLOUD": str(here.cloud.state)})
    assert result.exit_code == 0, f"{result.output}\n{here.device.log()}"
    return json.loads(result.stdout)


def start(device: Device) -> None:
    settings = device.state / SETTINGS_FILE
    settings.write_text(settings.read_text() + ONE_BACKEND)
    device.start()


def job_when(here: Fleet, number: int, holds: Callable[[BenchmarkJobRecord], bool]) -> BenchmarkJobRecord:
    with CloudClient.connect(str(here.cloud.state)) as client:
        for record in client.watch_benchmark_job(number):
            if holds(record):
                return record
    pytest.fail(f"{record}\n{here.device.log()}")


def test_devices_measure_once_per_machine_within_the_budget_and_keep_no_files(tmp_path: Path, three_variants: Built) -> None:
    with fleet(tmp_path, "--no-broker") as here:
        here.publish(three_variants, 1)
        start(here.device)
        here.record_when(lambda record: record["online"])
        small = bench(here, "digits:1", "--device", NAME, "--budget-mb", str(size_of(three_variants, "fp32") / 1e6))
        first = bench(here, "digits:1", "--device", NAME)
        second = bench(here, "digits:1", "--all")
        assert here.cloud.operator().put(f"/v1/devices/{NAME}/labels", {"site": "east"}).status == 200
        again = bench(here, "digits:1", "--group", "site=east", "--again")
        ends = (small, first, second, again)
        store = Store(here.device.state)
    (within,), (measured,), (known,), (renewed,) = (each["devices"] for each in ends)
    assert {each["state"] for each in (within, measured, known, renewed)} == {"done"}
    assert set(measured["result"]["median_ms"]) == {"fp32", "int8"}
    assert measured["result"]["fastest"] == "int8"
    assert "int8-dynamic" in measured["result"]["failures"]
    assert (measured["result"]["device"], measured["result"]["job"]) == (NAME, first["job"])
    assert known["result"] == measured["result"]
    assert known["reason"] == "not measured again: this device has measured for this machine"
    assert renewed["result"]["job"] == again["job"]
    assert renewed["result"]["basis"] == measured["result"]["basis"]
    assert set(within["left_out"]) == {"int8", "int8-dynamic"}
    assert within["result"]["basis"] != measured["result"]["basis"]
    for variant in three_variants.package.variants:
        weights = variant.layers[LayerKind.GRAPH]
        assert not store.has_blob(weights.digest, weights.size)


def wait_for_log(device: Device, text: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while text not in device.log():
        assert time.monotonic() < deadline, device.log()
        time.sleep(0.05)


def size_of(built: Built, variant: str) -> int:
    return sum(layer.size for layer in built.package.variant(variant).layers.values())


def test_a_benchmark_gives_way_to_a_deployment_and_to_an_operator_who_cancels_it(tmp_path: Path, three_variants: Built) -> None:
    with fleet(tmp_path, "--no-broker") as here:
        here.publish(three_variants, 1)
        start(here.device)
        here.record_when(lambda record: record["online"])
        job = bench(here, "digits:1", "--device", NAME, "--no-wait")["job"]
        job_when(here, job, lambda record: record.devices[0].state is JobState.MEASURING)
        here.set_desired(three_variants, 1)
        here.record_when(runs(1))
        assert f"stopped benchmark job={job}" in here.device.log()
        done = job_when(here, job, lambda record: record.is_finished)
        assert done.devices[0].result is not None
        job = bench(here, "digits:1", "--device", NAME, "--again", "--no-wait")["job"]
        job_when(here, job, lambda record: record.devices[0].state is JobState.MEASURING)
        canceled = bench(here, "--cancel", str(job))
        wait_for_log(
            here.device, f"benchmark job={job}"
        )  # stopped, or its result is refused, because it was measured just before
        after = bench(here, "digits:1", "--device", NAME)
        answers = here.device.score(three_variants.samples)
    assert [each["state"] for each in canceled["devices"]] == ["canceled"]
    assert after["devices"][0]["result"]["job"] == done.job
    assert len(answers) == len(three_variants.samples)
