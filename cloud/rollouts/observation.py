"""Observe the devices of a rollout: convert their reports into states of the rollout.

Everything here computes values from values, except `outcomes_of`, which also reads the known failures of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from cloud.rollouts.failures import failing_profiles
from cloud.rollouts.rules import Outcome
from cloud.rollouts.store import StoredDevice, StoredRollout
from edgewright.contracts.messages import IMPORTED_FROM, DeploymentState, DeviceRecord

Records = Mapping[str, DeviceRecord]
"""All enrolled and revoked devices, by name."""


def observe(stored: StoredRollout, records: Records, now: datetime) -> StoredRollout:
    """Return the rollout with the current states of its devices; changes are timed by the cloud's clock."""
    return replace(stored, devices=tuple(_observe_device(each, records[each.device], stored, now) for each in stored.devices))


def state_for_rollout(device: StoredDevice, record: DeviceRecord, stored: StoredRollout) -> tuple[DeploymentState | None, str]:
    """Return the current state of a device with regard to this rollout, and the reason.

    Only its report on the workload counts. A device counts as running only if it reports the digest of the rollout's package.
    """
    report = None if record.reported is None else record.reported.of(stored.workload)
    unchanged = device.state, device.reason
    if device.desired_number is None or device.state is DeploymentState.SUPERSEDED:
        return unchanged
    has_ended = device.state is not None and device.state.is_final
    if _is_removed(record, stored.workload, device.desired_number):
        return unchanged if has_ended else (DeploymentState.SUPERSEDED, f"workload {stored.workload} was removed")
    if report is None:
        return unchanged
    if report.desired_number >= IMPORTED_FROM:
        waits = has_ended or device.state in (None, DeploymentState.OFFERED)
        return unchanged if waits else (DeploymentState.SUPERSEDED, "a package imported on the device replaced this version")
    if report.desired_number > device.desired_number:
        return unchanged if has_ended else (DeploymentState.SUPERSEDED, "a newer desired state replaced this one")
    if report.desired_number < device.desired_number or report.state is None:
        return unchanged
    if report.state is DeploymentState.RUNNING and (report.running is None or report.running.index_digest != stored.index.digest):
        return device.state, "reported running, but with another package"
    return report.state, report.reason


def _is_removed(record: DeviceRecord, workload: str, offered_number: int) -> bool:
    """Return True if a desired state after the offer is without the workload; the record may be older than the offer."""
    desired = record.desired
    return desired is not None and desired.desired_number > offered_number and desired.of(workload) is None


def outcomes_of(connection: Connection, stored: StoredRollout, records: Records) -> dict[str, Outcome]:
    """Return the outcome of each device for the rules; known failures block only devices that were not named."""
    failing = {} if stored.request.devices else failing_profiles(connection, stored.index.digest)
    return {each.device: _outcome(each, records[each.device], failing) for each in stored.devices}


def _observe_device(device: StoredDevice, record: DeviceRecord, stored: StoredRollout, now: datetime) -> StoredDevice:
    state, reason = state_for_rollout(device, record, stored)
    return replace(
        device,
        state=state,
        reason=reason,
        since=device.since if state is device.state else now,
        online=record.online,
        online_since=device.online_since if record.online is device.online else now,
    )


def _outcome(device: StoredDevice, record: DeviceRecord, failing: Mapping[str, str]) -> Outcome:
    return Outcome(
        state=device.state,
        since=device.since,
        online=device.online,
        online_since=device.online_since,
        reason=device.reason,
        blocked_reason=failing.get(record.profile, ""),
        revoked=record.revoked,
        can_be_restored=device.previous is not None,
    )
