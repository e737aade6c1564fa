"""Benchmark jobs from the operators' side: create, show and cancel them. Devices are selected as for a rollout.

A device measures outside of rollouts only: one that is in an active rollout is refused if it is named, and waits otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import benchmark_job_devices, benchmark_jobs, benchmarks
from cloud.fleet import devices
from cloud.fleet.benchmark_jobs import devices_in_rollouts, release_claims
from cloud.registry import models
from cloud.registry.blobs import BlobStore, RepositoryBlobs
from cloud.rollouts.operations import select_devices
from edgewright.contracts import wire
from edgewright.contracts.connection.benchmark_jobs import (
    MAX_REASON,
    OPEN_STATES,
    BenchmarkJobDevice,
    BenchmarkJobRecord,
    BenchmarkJobRequest,
    BenchmarkProgress,
    JobState,
)
from edgewright.contracts.connection.benchmarks import BenchmarkResult
from edgewright.contracts.messages import DeviceRecord, ModelVersion
from edgewright.contracts.package import read_index
from edgewright.contracts.variant import VariantConfig
from edgewright.errors import BadInputError, ConflictError, NotFoundError
from hardware_profiles.catalog import load_profile
from hardware_profiles.match import match

_NEXT = "edgewright bench --job"


def create(connection: Connection, blobs: BlobStore, request: BenchmarkJobRequest, now: datetime) -> BenchmarkJobRecord:
    """Store a job; a device of a group on which no variant fits is part of it as failed.

    Raises:
        NotFoundError: the model, the version or a device is unknown.
        ConflictError: a named device is revoked, offline or in a rollout, or the version has no package.
        BadInputError: no device matches, or no variant fits a named device or any of the others.
    """
    version = models.find_version(connection, request.model, request.version)
    if not version.variants:
        raise ConflictError(f"{version.model}:{version.version} must hold a package, but only source files are registered")
    selected = select_devices(connection, request.devices, request.labels, now)
    if not selected:
        where = f"with {' '.join(f'{name}={text}' for name, text in request.labels.items())} " if request.labels else ""
        raise BadInputError(f"a benchmark must have a device, but no device {where}is enrolled: see 'edgewright devices list'")
    if request.devices:
        _check_ready(connection, selected, request)
    misfits = _misfits(selected, version, blobs)
    if misfits and (request.devices or len(misfits) == len(selected)):
        device = min(misfits)
        raise BadInputError(f"{version.model}:{version.version} must have a variant for {device}: {misfits[device]}")
    job = _insert(connection, request, version, [each.device for each in selected], misfits, now)
    raise_counter(connection, Counter.CHANGES)
    return record(connection, job, now)


def cancel(connection: Connection, job: int, now: datetime) -> BenchmarkJobRecord:
    """Cancel a job on the devices that have not finished it; a device that measures stops after its next telemetry.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: all devices have finished it.
    """
    record(connection, job, now)
    rows = benchmark_job_devices.c
    canceled = update(benchmark_job_devices).where(rows.job == job, rows.state.in_(OPEN_STATES)).returning(rows.device)
    reason = wire.encode(BenchmarkProgress(state=JobState.FAILED, reason="canceled by an operator"))
    values = {"state": JobState.CANCELED, "progress": reason, "changed_at": now}
    names = list(connection.execute(canceled.values(values)).scalars())
    if not names:
        raise ConflictError(f"job {job} must be open to be canceled, but all of its devices have finished: {_NEXT} {job}")
    release_claims(connection, job, names, now)
    raise_counter(connection, Counter.CHANGES)
    return record(connection, job, now)


def record(connection: Connection, job: int, now: datetime) -> BenchmarkJobRecord:
    """Return a job with its devices and their results.

    Raises:
        NotFoundError: there is no such job.
    """
    row = connection.execute(select(benchmark_jobs).where(benchmark_jobs.c.job == job)).one_or_none()
    if row is None:
        raise NotFoundError(f"no benchmark job has the number {job}; 'edgewright bench PACKAGE --device DEVICE' makes one")
    request = wire.decode(row.request, BenchmarkJobRequest, what="the stored benchmark job")
    online = {each.device: each.online for each in devices.records(connection, now)}
    busy, results = devices_in_rollouts(connection), _results(connection, row.model)
    rows = select(benchmark_job_devices).where(benchmark_job_devices.c.job == job).order_by(benchmark_job_devices.c.device)
    members = []
    for member in connection.execute(rows):
        progress = wire.decode(member.progress, BenchmarkProgress, what="the stored progress")
        state, is_online = JobState(member.state), online.get(member.device, False)
        members.append(
            BenchmarkJobDevice(
                device=member.device,
                state=state,
                reason=progress.reason if state.is_final else _waits(is_online, busy.get(member.device)) or progress.reason,
                online=is_online,
                left_out=progress.left_out,
                result=results.get(progress.basis or ""),
            )
        )
    return BenchmarkJobRecord(
        job=job,
        model=row.model,
        version=row.version,
        created_at=row.created_at,
        again=request.again,
        budget_bytes=request.budget_bytes,
        budget_s=request.budget_s,
        devices=tuple(members),
    )


def _waits(online: bool, rollout: int | None) -> str | None:
    if not online:
        return "offline: starts when the device connects"
    return None if rollout is None else f"starts when rollout {rollout} has ended"


def _check_ready(connection: Connection, selected: Sequence[DeviceRecord], request: BenchmarkJobRequest) -> None:
    busy = devices_in_rollouts(connection)
    for each in selected:
        if each.device in busy:
            number = busy[each.device]
            raise ConflictError(
                f"device {each.device} must not be in an active rollout, but it is in rollout {number}: wait with "
                f"'edgewright rollouts watch {number}', or abort it with 'edgewright rollouts abort {number}'"
            )
        if not each.online and not request.wait_for_offline:
            raise ConflictError(
                f"device {each.device} must be online, but it is offline: start its agent, or add --no-wait to measure when it "
                "connects"
            )


def _misfits(selected: Sequence[DeviceRecord], version: ModelVersion, blobs: BlobStore) -> dict[str, str]:
    """Return the reasons of each device on whose profile no variant fits; a profile that only the device has is left to it."""
    package = read_index(RepositoryBlobs(blobs, version.model), version.index)
    configs = [variant.config for variant in package.variants]
    reasons = {profile: _misfit(profile, configs) for profile in {each.profile for each in selected}}
    return {each.device: reason for each in selected if (reason := reasons[each.profile]) is not None}


def _misfit(profile: str, configs: Sequence[VariantConfig]) -> str | None:
    try:
        matched = match(load_profile(profile), configs)
    except BadInputError:
        return None
    return None if matched.chosen is not None else " ".join(matched.sentences)


def _insert(
    connection: Connection,
    request: BenchmarkJobRequest,
    version: ModelVersion,
    names: Sequence[str],
    misfits: Mapping[str, str],
    now: datetime,
) -> int:
    row = {
        "request": wire.encode(request),
        "model": version.model,
        "version": version.version,
        "package_index": wire.encode(version.index),
        "created_at": now,
    }
    job: int = connection.execute(insert(benchmark_jobs).values(row).returning(benchmark_jobs.c.job)).scalar_one()
    waiting = BenchmarkProgress(state=JobState.WAITING, reason="starts after the device's next telemetry")
    rows = []
    for name in names:
        progress = waiting
        if name in misfits:
            progress = BenchmarkProgress(state=JobState.FAILED, reason=f"no variant fits: {misfits[name]}"[:MAX_REASON])
        rows.append({"job": job, "device": name, "state": progress.state, "progress": wire.encode(progress), "changed_at": now})
    connection.execute(insert(benchmark_job_devices), rows)
    return job


def _results(connection: Connection, model: str) -> dict[str, BenchmarkResult]:
    stored = select(benchmarks.c.basis, benchmarks.c.result).where(benchmarks.c.model == model, benchmarks.c.result.is_not(None))
    return {
        row.basis: wire.decode(row.result, BenchmarkResult, what="the stored benchmark") for row in connection.execute(stored)
    }
