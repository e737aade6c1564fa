"""A slot that a power cut or the disk damaged: found at the start, reported, fetched again, and never scored with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_agent.packages.fetch import fetch
from edge_agent.storage.integrity import slot_damage
from edge_agent.storage.links import ACTIVE
from edge_agent.storage.store import SLOT_FILE, Store
from edge_agent.workers.requests import FetchRequest
from edgewright.contracts.messages import DeploymentState, FailureCause
from edgewright.contracts.variant import LayerKind
from tests.edge_agent.conftest import Device
from tests.support.device_packages import Built
from tests.support.fake_cloud import FakeCloud

S = DeploymentState
WEIGHTS, GRAPH, CONFIG = "head.weights", "graph.onnx", "variant.json"


def writable(path: Path) -> Path:
    path.chmod(0o644)
    return path


def empty(path: Path) -> None:
    writable(path).write_bytes(b"")


def truncate(path: Path) -> None:
    writable(path).write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    """Change 64 bytes in place; size and time remain."""
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 64] = bytes(byte ^ 0x55 for byte in raw[middle : middle + 64])
    with writable(path).open("r+b") as stream:
        stream.write(raw)


def garbage(path: Path) -> None:
    writable(path).write_bytes(b"\x00garbage{")


def delete(path: Path) -> None:
    path.unlink()


DAMAGES = [
    pytest.param(GRAPH, empty, id="graph empty after a power cut"),
    pytest.param(WEIGHTS, truncate, id="weights cut off"),
    pytest.param(WEIGHTS, flip, id="weights with flipped bits"),
    pytest.param(GRAPH, flip, id="graph with flipped bits"),
    pytest.param("golden_inputs.npz", flip, id="golden samples with flipped bits"),
    pytest.param(WEIGHTS, delete, id="weights deleted"),
    pytest.param(CONFIG, garbage, id="config is garbage"),
    pytest.param(SLOT_FILE, garbage, id="record is garbage"),
    pytest.param(SLOT_FILE, empty, id="record empty"),
    pytest.param(SLOT_FILE, delete, id="record deleted"),
]


def scores_match(device: Device, built: Built) -> bool:
    return bool(np.allclose(device.score_with_retries(built.samples, timeout_s=40), built.answers, rtol=1e-4, atol=1e-2))


@pytest.fixture
def slot(store: Store, cloud: FakeCloud, v1: Built) -> Path:
    cloud.publish(v1, 1)
    request = FetchRequest(state_directory=str(store.root), desired=cloud.set_desired(v1, 1))
    return store.write_slot(fetch(request))


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_every_damage_of_a_file_is_found_and_named(slot: Path, name: str, damage: Callable[[Path], None]) -> None:
    assert slot_damage(slot) is None
    damage(slot / name)
    assert str(slot_damage(slot)).startswith(name)


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_fetching_again_mends_every_damage(
    store: Store, cloud: FakeCloud, v1: Built, slot: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damaged_bytes = (slot / name).stat().st_size
    damage(slot / name)
    before = sum(cloud.sent.values())
    desired = cloud.set_desired(v1, 1)
    record = fetch(FetchRequest(state_directory=str(store.root), desired=desired))
    assert slot_damage(store.write_slot(record, replace=True)) is None
    assert sum(cloud.sent.values()) - before <= damaged_bytes + 4096, "only the damaged file and small documents move"


@pytest.mark.parametrize(("name", "damage"), [DAMAGES[0], DAMAGES[2], DAMAGES[7]])
def test_a_damaged_slot_is_fetched_again_and_runs(
    cloud: FakeCloud, running: Device, v1: Built, name: str, damage: Callable[[Path], None]
) -> None:
    running.stop()
    damage((running.state / "workloads" / "digits" / ACTIVE).resolve() / name)
    running.start()
    assert scores_match(running, v1)
    cloud.wait_for(S.RUNNING)
    assert "was damaged and has been fetched again" in str(running.explain()["history"])


def test_offline_a_damaged_slot_is_never_scored_with_nor_called_running(cloud: FakeCloud, running: Device, v1: Built) -> None:
    running.stop()
    flip((running.state / "workloads" / "digits" / ACTIVE).resolve() / WEIGHTS)
    cloud.stop()
    running.start()
    response = running.http.request("POST", f"{running.url}/score", json={"data": v1.samples.tolist()})
    assert response.status == 503
    assert "digits:1 (fp32) is damaged on this device: head.weights has other bytes than the package" in response.json()["error"]
    status = running.explain()
    assert (status["reported"]["state"], status["reported"]["cause"]) == (S.FETCHING, FailureCause.DEVICE)
    assert status["next_step"].startswith("wait: waiting for the network to repair a slot: digits:1 (fp32) is damaged")
    cloud.start()
    assert scores_match(running, v1)


def test_a_slot_that_is_damaged_while_it_runs_is_found_when_its_runner_restarts(
    cloud: FakeCloud, running: Device, v1: Built
) -> None:
    flip((running.state / "workloads" / "digits" / ACTIVE).resolve() / WEIGHTS)
    (runner,) = running.runners()
    runner.kill()
    runner.wait(10)
    assert scores_match(running, v1)
    cloud.wait_for(S.RUNNING)


def test_a_damaged_blob_does_not_condemn_the_next_version_that_shares_it(
    cloud: FakeCloud, running: Device, v1: Built, v2: Built
) -> None:
    digest = v1.package.variant("fp32").layers[LayerKind.FEATURIZER_WEIGHTS].digest
    flip(Store(running.state).blob_path(digest))
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2, trial_s=0.5)
    cloud.wait_for(S.RUNNING)
    assert scores_match(running, v2)
