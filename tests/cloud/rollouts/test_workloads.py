"""Rollouts of several workloads: each changes its own workload of a device, and never another one."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select, text

from cloud.db import schema
from cloud.db.database import Database
from cloud.rollouts import operations
from edgewright.contracts import signing, wire
from edgewright.contracts.messages import IMPORTED_FROM, DeploymentState, DesiredState, DeviceRecord, RolloutRequest, RolloutState
from edgewright.errors import BadInputError, ConflictError, NotFoundError
from tests.support.rollout_fleet import Fleet, fleet

__all__ = ["fleet"]

S = DeploymentState


def desired_workloads(fleet: Fleet, device: str) -> dict[str, tuple[int, int]]:
    """Return version and number by workload."""
    desired = fleet.desired(device)
    assert desired is not None
    return {one.workload: (one.version, one.desired_number) for one in desired.every_workload}


def test_a_rollout_of_a_second_workload_leaves_the_first_as_it_is(fleet: Fleet) -> None:
    fleet.create(1, devices=("cam-1",))
    fleet.tick()
    fleet.report("cam-1", S.RUNNING, workload="digits")
    fleet.tick()
    number = fleet.create(2, devices=("cam-1",), workload="ocr")
    fleet.tick()
    assert desired_workloads(fleet, "cam-1") == {"digits": (1, 1), "ocr": (2, 2)}
    fleet.report("cam-1", S.RUNNING, workload="ocr")
    fleet.tick()
    assert (fleet.show(number).state, fleet.show(number).workload) == (RolloutState.COMPLETED, "ocr")


def test_two_rollouts_run_at_once_on_a_device_if_they_are_of_different_workloads(fleet: Fleet) -> None:
    first = fleet.create(1, devices=("cam-1",))
    second = fleet.create(1, devices=("cam-1",), workload="ocr")
    with pytest.raises(ConflictError, match="active rollout of workload ocr, but it is in rollout 2"):
        fleet.create(2, devices=("cam-1",), workload="ocr")
    fleet.tick()
    fleet.report("cam-1", S.ROLLED_BACK, "too slow", workload="digits")
    fleet.report("cam-1", S.RUNNING, workload="ocr")
    fleet.tick()
    assert (fleet.show(first).state, fleet.show(second).state) == (RolloutState.HALTED, RolloutState.COMPLETED)


def test_a_halt_restores_the_previous_version_of_its_workload_alone(fleet: Fleet) -> None:
    for workload in ("digits", "ocr"):
        fleet.create(1, devices=("cam-1", "cam-2"), workload=workload, waves=("100%",))
        fleet.tick()
        for device in ("cam-1", "cam-2"):
            fleet.report(device, S.RUNNING, workload=workload)
        fleet.tick()
    fleet.create(2, devices=("cam-1", "cam-2"), workload="ocr", waves=("100%",))
    fleet.tick()
    fleet.report("cam-1", S.RUNNING, workload="ocr")
    fleet.report("cam-2", S.FAILED, running=1, workload="ocr")
    fleet.tick()
    assert desired_workloads(fleet, "cam-1") == {"digits": (1, 1), "ocr": (1, 4)}


def test_an_agent_that_knows_one_workload_gets_no_second_one(fleet: Fleet) -> None:
    fleet.create(1, devices=("cam-1",))
    fleet.tick()
    fleet.report("cam-1", S.RUNNING)
    fleet.tick()
    with pytest.raises(ConflictError, match="must know several workloads, but version unknown knows one, which is digits"):
        fleet.create(2, devices=("cam-1",), workload="ocr")


def remove(fleet: Fleet, workload: str) -> DeviceRecord:
    with fleet.database.transaction() as connection:
        return operations.remove_workload(connection, fleet.key, "cam-1", workload, fleet.now)


def test_a_removed_workload_leaves_the_desired_state_under_a_higher_number(fleet: Fleet) -> None:
    for workload in ("digits", "ocr"):
        fleet.create(1, devices=("cam-1",), workload=workload)
    fleet.tick()
    with pytest.raises(ConflictError, match="must not be in an active rollout of workload ocr"):
        remove(fleet, "ocr")
    for workload in ("digits", "ocr"):
        fleet.report("cam-1", S.RUNNING, workload=workload)
    fleet.tick()
    with pytest.raises(NotFoundError, match="cam-1 has no workload 'orc'; known: ocr"):
        remove(fleet, "orc")
    removed = remove(fleet, "ocr").desired
    assert removed is not None
    assert ([one.workload for one in removed.every_workload], removed.desired_number) == (["digits"], 3)
    empty = remove(fleet, "digits").desired
    assert empty is not None
    assert (empty.every_workload, empty.desired_number) == ((), 4)
    fleet.create(2, devices=("cam-1",), workload="ocr")
    fleet.tick()
    assert desired_workloads(fleet, "cam-1") == {"ocr": (2, 5)}


def test_a_name_of_a_workload_is_checked(fleet: Fleet) -> None:
    with pytest.raises(BadInputError, match="workload"):
        fleet.create(1, workload="no name")


def test_rollouts_and_desired_states_of_a_cloud_that_knew_one_workload_are_taken_over(database_url: str) -> None:
    before = Database.open(database_url)
    fleet = Fleet(before, signing.generate_key())
    fleet.add_device("cam-1")
    fleet.publish(1)
    fleet.publish(2)
    number = fleet.create(1, devices=("cam-1",))
    fleet.tick()
    as_single(before)
    before.close()
    fleet.database = Database.open(database_url)
    fleet.report("cam-1", S.RUNNING)
    fleet.tick()
    assert (fleet.show(number).state, fleet.show(number).workload) == (RolloutState.COMPLETED, "digits")
    fleet.report("cam-1", S.RUNNING, workload="digits")
    fleet.create(2, devices=("cam-1",), workload="ocr")
    fleet.tick()
    assert desired_workloads(fleet, "cam-1") == {"digits": (1, 1), "ocr": (2, 2)}
    fleet.database.close()


def without(raw: bytes, *names: str) -> bytes:
    """Return a JSON object without some of its members."""
    return json.dumps({name: value for name, value in json.loads(raw).items() if name not in names}).encode()


def as_single(database: Database) -> None:
    """Give the rows the form that they had when a device had one workload."""
    with database.transaction() as connection:
        raw = connection.execute(select(schema.twins.c.desired)).scalar_one()
        desired = without(raw, "workload", "workloads")
        connection.execute(schema.twins.update().values(desired=desired))
        request = without(connection.execute(select(schema.rollouts.c.request)).scalar_one(), "workload")
        connection.execute(schema.rollouts.update().values(request=request))
        connection.execute(text("ALTER TABLE rollouts DROP COLUMN workload"))
        for table in ("benchmarks", "benchmark_job_devices", "benchmark_jobs", "pipelines", "pipeline_jobs", "schedules"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0008'"))
    assert wire.decode(desired, DesiredState, what="desired").workload == "digits"
    assert wire.decode(request, RolloutRequest, what="request").workload == ""


def test_a_package_imported_on_a_device_replaces_a_deployment_but_not_an_offer(fleet: Fleet) -> None:
    first = fleet.create(1, devices=("cam-1",))
    fleet.tick()
    fleet.report("cam-1", S.RUNNING, number=IMPORTED_FROM)
    fleet.tick()
    assert fleet.show(first).devices[0].state is S.OFFERED, "the device has not taken the offer yet"
    fleet.report("cam-1", S.TRIAL)
    fleet.tick()
    fleet.report("cam-1", S.TRIAL, number=IMPORTED_FROM + 1)
    fleet.tick()
    (device,) = fleet.show(first).devices
    assert (device.state, device.reason) == (S.SUPERSEDED, "a package imported on the device replaced this version")
