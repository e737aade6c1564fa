"""Two agents that use one identity are found by their boot IDs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cloud.fleet import devices, twins
from edgewright.commands.devices import explanation
from edgewright.contracts.messages import DeviceRecord, ReportedState
from tests.support.rollout_fleet import Fleet, fleet

__all__ = ["fleet"]

REPORT = ReportedState(
    device="cam-1", desired_number=0, state=None, reason="no desired state yet", since=datetime(2026, 3, 1, 12, tzinfo=UTC)
)


def report_from(fleet: Fleet, boots: str, *, live: bool = True) -> DeviceRecord:
    """Store a report of each agent in `boots`, a second apart, and return the record of the device."""
    for sequence, boot_id in enumerate(boots, start=1):
        fleet.now += timedelta(seconds=1)
        with fleet.database.transaction() as connection:
            twins.store_report(connection, "cam-1", replace(REPORT, boot_id=boot_id, sequence=sequence), fleet.now, live=live)
    with fleet.database.reading() as connection:
        return devices.record(connection, "cam-1", fleet.now)


@pytest.mark.parametrize("boots", ["ABA", "AABBA", "ABCA", "ABCDEFGHA", "BABA"])
def test_an_earlier_boot_id_that_returns_marks_the_identity_as_shared(fleet: Fleet, boots: str) -> None:
    record = report_from(fleet, boots)
    assert record.identity_shared_at == fleet.now
    assert [line for line in explanation(record) if line.startswith("identity  used by two agents in turns, last at 2026-03-01")]


@pytest.mark.parametrize("boots", ["A", "AAA", "ABCDEFGHIJ", "AB"])
def test_an_agent_that_restarts_does_not_share_its_identity(fleet: Fleet, boots: str) -> None:
    record = report_from(fleet, boots)
    assert record.identity_shared_at is None
    assert not [line for line in explanation(record) if line.startswith("identity")]


def test_a_retained_report_of_an_earlier_start_is_no_second_agent(fleet: Fleet) -> None:
    report_from(fleet, "AB")
    assert report_from(fleet, "A", live=False).identity_shared_at is None
