"""Known failures of a package on a hardware profile, and how an operator removes them (protocol.md P84)."""

from __future__ import annotations

import pytest

from cloud.rollouts import failures
from edgewright.contracts.messages import DeploymentState, FailureCause
from edgewright.errors import ConflictError, NotFoundError
from tests.support.rollout_fleet import Fleet, fleet, index_of

__all__ = ["fleet"]


def test_a_package_that_failed_on_a_hardware_profile_is_blocked_there_unless_devices_are_named(fleet: Fleet) -> None:
    fleet.create(2, devices=("cam-1",), waves=("100%",))
    fleet.tick()
    fleet.report("cam-1", DeploymentState.ROLLED_BACK, "p95 latency over the limit", cause=FailureCause.PACKAGE)
    fleet.tick()
    with pytest.raises(ConflictError, match=r"digits:2 is known to fail on raspberry-pi-4 \(cam-1: p95 latency over the limit\)"):
        fleet.create(2)
    assert fleet.create(2, labels={"site": "west"}) == 2
    assert fleet.create(2, devices=("cam-2",)) == 3


FAILURES = (DeploymentState.REFUSED, DeploymentState.ROLLED_BACK, DeploymentState.FAILED)


@pytest.mark.parametrize("cause", [None, *FailureCause])
@pytest.mark.parametrize("state", FAILURES)
def test_p84_only_a_failure_of_the_package_keeps_it_from_a_hardware_profile(
    fleet: Fleet, state: DeploymentState, cause: FailureCause | None
) -> None:
    fleet.create(2, devices=("cam-1",), waves=("100%",))
    fleet.tick()
    fleet.report("cam-1", state, "no longer good", cause=cause)
    fleet.tick()
    with fleet.database.reading() as connection:
        failing = failures.failing_profiles(connection, index_of(2).digest)
    assert failing == ({"raspberry-pi-4": "cam-1: no longer good"} if cause is FailureCause.PACKAGE else {})


def test_p84_a_forgiven_version_is_offered_again_and_other_profiles_stay_blocked(fleet: Fleet) -> None:
    fleet.create(2, devices=("cam-1", "gate-1"), waves=("100%",))
    fleet.tick()
    for device in ("cam-1", "gate-1"):
        fleet.report(device, DeploymentState.ROLLED_BACK, "too slow", cause=FailureCause.PACKAGE)
    fleet.tick()
    removed = fleet.forgive(2, "raspberry-pi-4")
    assert [(each.profile, each.reason) for each in removed] == [("raspberry-pi-4", "cam-1: too slow")]
    assert fleet.create(2, labels={"site": "east"}) == 2
    with pytest.raises(ConflictError, match=r"lift this with 'edgewright rollouts forgive digits:2'"):
        fleet.create(2, labels={"site": "west"})
    assert [each.profile for each in fleet.forgive(2)] == ["generic-x86-64"]
    assert fleet.forgive(2) == []
    fleet.tick()
    with fleet.database.reading() as connection:
        assert failures.failing_profiles(connection, index_of(2).digest) == {}


@pytest.mark.parametrize(
    ("version", "profile", "message"),
    [
        pytest.param(9, None, "model digits has no version 9", id="version"),
        pytest.param(2, "raspbery-pi-4", "digits:2 is not known to fail on 'raspbery-pi-4'", id="profile"),
    ],
)
def test_p84_forgiving_something_unknown_is_refused(fleet: Fleet, version: int, profile: str | None, message: str) -> None:
    with pytest.raises(NotFoundError, match=message):
        fleet.forgive(version, profile)
