"""A package from a file on the device: the checks and the trial of one from the registry, and nothing changed by a bad one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.deployment.journal import Journal
from edge_agent.packages.import_package import ImportOptions, import_package
from edgewright.contracts.messages import IMPORTED_FROM, DeploymentState, DesiredState
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import attach_signature, read_package, write_tar
from edgewright.contracts.signing import PrivateKey, generate_key
from edgewright.contracts.variant import LayerKind
from edgewright.errors import ConflictError
from tests.edge_agent.conftest import Device
from tests.support.device_packages import MODEL, Built, Recipe, build
from tests.support.fake_cloud import FakeCloud


def stick(folder: Path, built: Built, version: int, key: PrivateKey | None, valid_s: float = 3600) -> Path:
    """Write a package as `packages sign` and `packages export` do; without a key it is not signed."""
    folder.mkdir()
    copy = folder / "layout"
    shutil.copytree(built.layout.path, copy)
    layout = OciLayout.open(copy)
    if key is not None:
        attach_signature(layout, read_package(layout), built.envelope(version, key, valid_s=valid_s))
    tar = folder / "package.tar"
    write_tar(layout, tar)
    return tar


def test_an_offline_device_tries_and_commits_an_imported_package(
    device: Device, cloud: FakeCloud, v1: Built, tmp_path: Path
) -> None:
    tar = stick(tmp_path / "stick", v1, 1, cloud.publisher)
    cloud.stop()
    device.start()
    finished = device.command("import", str(tar), "--trial-s", "0.5", "--wait")
    assert finished.returncode == 0, finished.stderr + device.log()
    assert finished.stdout.splitlines()[0] == f"{MODEL}:1 is verified; the agent checks and tries it as workload {MODEL}"
    assert finished.stdout.splitlines()[1].startswith("running: ")
    assert device.runs(MODEL, v1) == IMPORTED_FROM
    events = {past["event"]: past["reason"] for past in device.explain()["history"]}
    assert {"fetch", "verify", "stage", "switch", "try", "commit"} <= set(events), "each step of a deployment must have happened"
    assert "golden samples" in events["stage"]


def test_an_import_lasts_until_the_cloud_sends_the_workload_a_newer_state(
    running: Device, cloud: FakeCloud, v1: Built, v2: Built, tmp_path: Path
) -> None:
    sent_before = sum(cloud.sent.values())
    imported = import_package(running.state, stick(tmp_path / "stick", v2, 2, cloud.publisher), ImportOptions(trial_s=0.5))
    report = cloud.wait_for(DeploymentState.RUNNING, imported.desired_number)
    assert report.running is not None
    assert (report.running.version, sum(cloud.sent.values())) == (2, sent_before), "the registry must not be asked"
    running.kill()
    running.start()
    assert running.score_with_retries(v2.samples) == pytest.approx(v2.answers, rel=1e-4, abs=1e-2), "a restart must keep it"
    refused_by(running, stick(tmp_path / "old", v1, 1, cloud.publisher), "must be at least the running 2, but it is 1")
    newer = cloud.set_desired(v1, 1, allow_downgrade=True)
    assert newer.desired_number < imported.desired_number
    cloud.wait_for(DeploymentState.RUNNING, newer.desired_number)
    assert running.runs(MODEL, v1) == newer.desired_number
    assert not list((running.state / "imports").iterdir()), "an import whose deployment has ended must be removed"


def test_an_imported_version_that_fails_its_check_changes_nothing_that_runs(
    running: Device, cloud: FakeCloud, v1: Built, wrong_outputs: Built, tmp_path: Path
) -> None:
    finished = running.command("import", str(stick(tmp_path / "stick", wrong_outputs, 3, cloud.publisher)), "--wait")
    assert finished.returncode == 1
    assert "golden samples" in finished.stderr
    assert running.score(v1.samples) == pytest.approx(v1.answers, rel=1e-4, abs=1e-2)


def test_an_import_made_while_the_agent_is_stopped_is_taken_at_its_start(
    device: Device, cloud: FakeCloud, v1: Built, tmp_path: Path
) -> None:
    tar = stick(tmp_path / "stick", v1, 1, cloud.publisher)
    without_agent = device.command("import", str(tar), "--trial-s", "0", "--wait")
    assert (without_agent.returncode, "the agent must run" in without_agent.stderr) == (1, True)
    device.start()
    cloud.wait_for(DeploymentState.RUNNING, IMPORTED_FROM)


def _cut(tar: Path, built: Built) -> None:
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])


def _damage(tar: Path, built: Built) -> None:
    raw = bytearray(tar.read_bytes())
    raw[raw.index(built.read(built.package.variant("fp32").layers[LayerKind.HEAD_WEIGHTS])[:64])] ^= 1
    tar.write_bytes(raw)


def _replace(tar: Path, built: Built) -> None:
    tar.write_bytes(b"not a tar" * 100)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        pytest.param(_cut, "is not a package: it must be an OCI layout directory or a tar of one", id="truncated"),
        pytest.param(_damage, "the package was changed or damaged", id="damaged"),
        pytest.param(_replace, "is not a package", id="another file"),
        pytest.param(lambda tar, _: tar.unlink(), "no such package", id="missing"),
    ],
)
def test_a_harmed_file_is_one_line_exit_2_and_changes_nothing(
    device: Device, cloud: FakeCloud, v1: Built, tmp_path: Path, harm: Callable[[Path, Built], None], message: str
) -> None:
    tar = stick(tmp_path / "stick", v1, 1, cloud.publisher)
    harm(tar, v1)
    refused(device, tar, message)


def refused(device: Device, tar: Path, message: str) -> None:
    before = contents(device.state)
    refused_by(device, tar, message)
    assert contents(device.state) == before


def refused_by(device: Device, tar: Path, message: str) -> None:
    finished = device.command("import", str(tar))
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1), finished.stderr
    assert message in finished.stderr


def contents(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.name != "imports")


def test_an_unsigned_package_is_refused(device: Device, v1: Built, tmp_path: Path) -> None:
    refused(device, stick(tmp_path / "stick", v1, 1, None), f"package {MODEL} must be signed, but it is not")


def test_a_package_of_a_foreign_publisher_is_refused(device: Device, v1: Built, tmp_path: Path) -> None:
    refused(device, stick(tmp_path / "stick", v1, 1, generate_key()), "key")


def test_an_expired_signature_is_refused(device: Device, cloud: FakeCloud, v1: Built, tmp_path: Path) -> None:
    refused(device, stick(tmp_path / "stick", v1, 1, cloud.publisher, valid_s=-60), "expired at")


def test_a_package_for_another_device_is_refused(device: Device, cloud: FakeCloud, tmp_path: Path) -> None:
    other = build(tmp_path / "other", Recipe(backend="npu"))
    refused(device, stick(tmp_path / "stick", other, 1, cloud.publisher), "must have a variant for generic-x86-64")


def test_a_version_that_runs_already_is_refused(settled: Path, tmp_path: Path, cloud: FakeCloud, v1: Built) -> None:
    with pytest.raises(ConflictError, match=f"{MODEL}:1 runs already as {MODEL}: there is nothing to import"):
        import_package(settled, stick(tmp_path / "a", v1, 1, cloud.publisher))


def test_only_the_cloud_adds_a_workload_to_those_that_it_sent(settled: Path, tmp_path: Path, v2: Built, cloud: FakeCloud) -> None:
    device = Device(settled, cloud.device)
    finished = device.command("import", str(stick(tmp_path / "stick", v2, 2, cloud.publisher)), "--workload", "other")
    assert finished.returncode == 2
    assert f"--workload must be one that the cloud gave to this device ({MODEL}), not other" in finished.stderr


def test_the_order_of_acceptance_decides_about_the_current_deployment(tmp_path: Path, v1: Built) -> None:
    journal, _ = Journal.open(tmp_path)
    state = DesiredState(device="cam-1", desired_number=5, model=MODEL, version=1, index=v1.package.descriptor)
    for number in (5, IMPORTED_FROM, 6):
        journal.accept(replace(state, desired_number=number), "test")
        current = journal.current()
        assert current is not None
        assert current.desired.desired_number == number
    assert (journal.highest_number(imported=False), journal.highest_number(imported=True)) == (6, IMPORTED_FROM)
