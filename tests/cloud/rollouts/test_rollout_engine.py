"""The rollout engine on a real database: devices report through their twins, and desired state is signed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from cloud.db import schema
from cloud.fleet import devices
from cloud.rollouts import engine, operations
from cloud.rollouts.deployments import Tick
from edgewright.contracts.messages import (
    DeploymentState,
    RolloutState,
)
from edgewright.errors import BadInputError, ConflictError, NotFoundError
from tests.support.rollout_fleet import PROFILES, Fleet, fleet

__all__ = ["fleet"]


def test_a_good_version_reaches_all_devices_wave_by_wave(fleet: Fleet) -> None:
    number = fleet.create(1, devices=("cam-1", "cam-2", "gate-1"), waves=("1", "100%"))
    fleet.tick()
    assert fleet.desired_versions() == {"cam-1": 1, "cam-2": None, "gate-1": None}
    fleet.report("cam-1", DeploymentState.RUNNING)
    fleet.tick()
    assert fleet.desired_versions() == {"cam-1": 1, "cam-2": 1, "gate-1": 1}
    fleet.report("cam-2", DeploymentState.RUNNING)
    fleet.report("gate-1", DeploymentState.RUNNING)
    fleet.tick()
    assert (fleet.show(number).state, fleet.show(number).reason) == (RolloutState.COMPLETED, "3 of 3 devices running")


def test_a_version_that_fails_on_the_canary_halts_the_rollout_and_the_previous_version_is_restored(fleet: Fleet) -> None:
    fleet.create(1)
    fleet.obey()
    number = fleet.create(2, devices=("cam-1", "cam-2", "gate-1"), waves=("2", "100%"))
    fleet.tick()
    fleet.report("cam-2", DeploymentState.RUNNING)
    fleet.tick()
    fleet.report("cam-1", DeploymentState.REFUSED, "golden samples differ by 0.4", running=1)
    fleet.tick()
    halted = fleet.show(number)
    assert halted.state is RolloutState.HALTED
    assert "cam-1 refused: golden samples differ by 0.4" in halted.reason
    assert fleet.desired_versions() == {"cam-1": 2, "cam-2": 1, "gate-1": 1}
    restored = fleet.desired("cam-2")
    assert restored is not None
    assert (restored.desired_number, restored.allow_downgrade) == (3, True)
    assert [each.reason for each in halted.devices] == ["golden samples differ by 0.4", "restored digits:1", ""]


def test_a_tick_without_news_changes_nothing(fleet: Fleet) -> None:
    number = fleet.create(1)
    fleet.tick()
    before, versions = fleet.show(number), fleet.desired_versions()
    fleet.now += timedelta(seconds=1)
    fleet.tick()
    assert (fleet.show(number), fleet.desired_versions()) == (before, versions)


def test_an_interrupted_transaction_is_repeated_from_the_tables(fleet: Fleet) -> None:
    number = fleet.create(1, waves=("100%",))
    with pytest.raises(ZeroDivisionError), fleet.database.transaction() as connection:
        engine.advance_all(Tick.begin(connection, fleet.key, fleet.now))
        raise ZeroDivisionError
    assert set(fleet.desired_versions().values()) == {None}
    fleet.tick()
    assert fleet.desired_versions() == {"cam-1": 1, "cam-2": 1, "gate-1": 1}
    assert {each.desired_number for each in fleet.show(number).devices} == {1}


def test_only_the_holder_of_the_lease_acts_until_it_expires(fleet: Fleet) -> None:
    fleet.create(1, devices=("cam-1", "cam-2"), waves=("1", "100%"))
    fleet.tick(holder="worker-1")
    fleet.report("cam-1", DeploymentState.RUNNING)
    fleet.tick(holder="worker-2")
    assert fleet.desired_versions()["cam-2"] is None
    fleet.now += engine.LEASE_DURATION
    fleet.tick(holder="worker-2")
    assert fleet.desired_versions()["cam-2"] == 1


def test_a_worker_that_ends_releases_the_lease(fleet: Fleet) -> None:
    fleet.create(1)
    fleet.tick(holder="worker-1")
    engine.release_lease(fleet.database, "worker-1")
    for device in PROFILES:
        if fleet.desired_versions()[device]:
            fleet.report(device, DeploymentState.RUNNING)
    fleet.tick(holder="worker-2")
    assert [version for version in fleet.desired_versions().values() if version] == [1, 1, 1]


def test_a_device_that_runs_another_package_does_not_count_as_running(fleet: Fleet) -> None:
    number = fleet.create(2, devices=("cam-1",))
    fleet.tick()
    fleet.report("cam-1", DeploymentState.RUNNING, running=1)
    fleet.tick()
    record = fleet.show(number)
    assert (record.state, record.devices[0].reason) == (RolloutState.RUNNING, "reported running, but with another package")


def test_a_device_that_has_the_version_is_not_notified_again(fleet: Fleet) -> None:
    fleet.create(1)
    fleet.obey()
    number = fleet.create(1)
    fleet.tick()
    assert fleet.show(number).state is RolloutState.COMPLETED
    desired = fleet.desired("cam-1")
    assert desired is not None
    assert desired.desired_number == 1


def test_a_rollback_by_rollout_allows_the_downgrade(fleet: Fleet) -> None:
    fleet.create(2)
    fleet.obey()
    fleet.create(1, devices=("cam-1",))
    fleet.tick()
    desired = fleet.desired("cam-1")
    assert desired is not None
    assert (desired.version, desired.allow_downgrade, desired.desired_number) == (1, True, 2)


def test_a_paused_rollout_offers_nothing_until_it_is_resumed(fleet: Fleet) -> None:
    number = fleet.create(1, devices=("cam-1", "cam-2"), waves=("1", "100%"))
    fleet.tick()
    with fleet.database.transaction() as connection:
        operations.pause(connection, number, fleet.now)
    fleet.report("cam-1", DeploymentState.RUNNING)
    fleet.tick()
    assert fleet.desired_versions()["cam-2"] is None
    with fleet.database.transaction() as connection:
        operations.resume(connection, number, fleet.now)
    fleet.tick()
    assert fleet.desired_versions()["cam-2"] == 1


def test_an_abort_withdraws_open_offers_and_leaves_running_devices_alone(fleet: Fleet) -> None:
    fleet.create(1)
    fleet.obey()
    number = fleet.create(2, devices=("cam-1", "cam-2"), waves=("100%",))
    fleet.tick()
    fleet.report("cam-1", DeploymentState.RUNNING)
    fleet.tick()
    with fleet.database.transaction() as connection:
        operations.abort(connection, fleet.key, number, fleet.now)
    fleet.tick()
    assert fleet.desired_versions() == {"cam-1": 2, "cam-2": 1, "gate-1": 1}
    assert fleet.show(number).state is RolloutState.ABORTED
    with fleet.database.transaction() as connection, pytest.raises(ConflictError, match="rollout 2 must be running or paused"):
        operations.resume(connection, number, fleet.now)


def test_a_device_is_in_one_active_rollout_at_most(fleet: Fleet) -> None:
    fleet.create(1, devices=("cam-1",))
    with pytest.raises(
        ConflictError,
        match=r"device cam-1 must not be in an active rollout of workload digits, but it is in rollout 1: .* rollouts abort 1",
    ):
        fleet.create(2)


def test_a_late_device_is_still_followed_after_the_rollout_is_complete(fleet: Fleet) -> None:
    with fleet.database.transaction() as connection:
        devices.mark_seen(connection, "gate-1", fleet.now, offline=True)
    number = fleet.create(1, waves=("100%",))
    fleet.tick()
    fleet.report("cam-1", DeploymentState.RUNNING)
    fleet.report("cam-2", DeploymentState.RUNNING)
    fleet.tick()
    assert fleet.show(number).reason == "2 of 3 devices running; 1 offline, will install it when back online"
    fleet.report("gate-1", DeploymentState.RUNNING)
    fleet.tick()
    assert {each.state for each in fleet.show(number).devices} == {DeploymentState.RUNNING}


def test_a_large_offer_is_made_in_short_transactions(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_OFFERS", 2)
    fleet.create(1, waves=("100%",))
    with fleet.database.transaction() as connection:
        engine.advance_all(Tick.begin(connection, fleet.key, fleet.now))
    assert sorted(fleet.desired_versions().values(), key=str) == [1, 1, None]
    fleet.tick()
    assert set(fleet.desired_versions().values()) == {1}


def test_labels_select_the_devices(fleet: Fleet) -> None:
    number = fleet.create(1, labels={"site": "east"})
    assert {each.device for each in fleet.show(number).devices} == {"cam-1", "cam-2"}


def test_a_request_without_a_version_rolls_out_the_newest(fleet: Fleet) -> None:
    assert fleet.show(fleet.create()).version == 3


def test_a_revoked_device_is_left_out_unless_it_is_named(fleet: Fleet) -> None:
    with fleet.database.transaction() as connection:
        devices.revoke(connection, "cam-1", fleet.now)
    assert len(fleet.show(fleet.create(1)).devices) == 2
    with pytest.raises(ConflictError, match="device cam-1 must be enrolled, but it was revoked"):
        fleet.create(1, devices=("cam-1",))


def test_a_device_revoked_during_a_rollout_does_not_delay_it(fleet: Fleet) -> None:
    number = fleet.create(1, waves=("100%",))
    fleet.tick()
    fleet.report("cam-1", DeploymentState.RUNNING)
    fleet.report("cam-2", DeploymentState.FAILED, "no answer from the registry")
    with fleet.database.transaction() as connection:
        devices.revoke(connection, "gate-1", fleet.now)
    fleet.tick()
    assert fleet.show(number).state is RolloutState.HALTED


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param({"devices": ("cam-3",)}, NotFoundError, "no device is called 'cam-3'; known: cam-2, cam-1", id="device"),
        pytest.param({"version": 9}, NotFoundError, "model digits has no version 9; its newest is 3", id="version"),
        pytest.param({"labels": {"site": "north"}}, BadInputError, "a rollout needs at least one device", id="no device"),
    ],
)
def test_a_request_with_unknown_names_stores_nothing(
    fleet: Fleet, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fleet.create(**changes)  # type: ignore[arg-type]
    with fleet.database.reading() as connection:
        assert connection.execute(select(schema.rollout_devices)).all() == []
