"""Benchmark jobs from the devices' side: an acknowledgement of telemetry names the job, and the device asks for it and reports.

    call_for     the open job of a device, unless an active rollout includes the device
    start        the content of the job; the device measures from now on
    progress     the device waits for another one, has finished, or has failed
    order_of     the request of an open job, which permits the device to claim and to send a benchmark

`cloud/rollouts/benchmark_jobs.py` creates, shows and cancels jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import benchmark_job_devices, benchmark_jobs, benchmarks, rollout_devices, rollouts
from edgewright.contracts import wire
from edgewright.contracts.connection.benchmark_call import BenchmarkCall
from edgewright.contracts.connection.benchmark_jobs import (
    OPEN_STATES,
    BenchmarkJobRequest,
    BenchmarkOrder,
    BenchmarkProgress,
    JobState,
)
from edgewright.contracts.messages import RolloutState
from edgewright.contracts.oci import Descriptor
from edgewright.errors import ConflictError

_ACTIVE_ROLLOUT = (RolloutState.RUNNING, RolloutState.PAUSED)


def call_for(connection: Connection, device: str) -> BenchmarkCall | None:
    """Return the first open job of a device; None without one, or while an active rollout includes the device."""
    job = _first_open_job(connection, device)
    if job is None or device in devices_in_rollouts(connection):
        return None
    return BenchmarkCall(job=job, budget_s=_request(connection, job).budget_s)


def devices_in_rollouts(connection: Connection) -> dict[str, int]:
    """Return the devices of active rollouts, each with the number of a rollout."""
    both = rollout_devices.join(rollouts, rollouts.c.rollout == rollout_devices.c.rollout)
    query = select(rollout_devices.c.device, rollout_devices.c.rollout).select_from(both)
    rows = connection.execute(query.where(rollouts.c.state.in_(_ACTIVE_ROLLOUT)))
    return {row.device: row.rollout for row in rows}


def start(connection: Connection, device: str, job: int, now: datetime) -> BenchmarkOrder:
    """Return the content of an open job, and record that the device measures.

    Raises:
        ConflictError: the device has no such open job.
    """
    _change(connection, device, job, JobState.MEASURING, BenchmarkProgress(state=JobState.WAITING, reason=""), now)
    row = connection.execute(select(benchmark_jobs).where(benchmark_jobs.c.job == job)).one()
    return BenchmarkOrder(
        job=job,
        model=row.model,
        version=row.version,
        index=wire.decode(row.package_index, Descriptor, what="the package of the job"),
        budget_bytes=_request(connection, job).budget_bytes,
    )


def progress(connection: Connection, device: str, job: int, report: BenchmarkProgress, now: datetime) -> None:
    """Store the progress of a device.

    Raises:
        ConflictError: the device has no such open job, or there is no result on the basis that it names.
    """
    if report.basis is not None:
        model = select(benchmark_jobs.c.model).where(benchmark_jobs.c.job == job).scalar_subquery()
        on_basis = benchmarks.c.model == model, benchmarks.c.basis == report.basis, benchmarks.c.result.is_not(None)
        if connection.execute(select(benchmarks.c.basis).where(*on_basis)).first() is None:
            raise ConflictError(
                f"{device} must send its result before it finishes job {job}, but the cloud has no result on its basis"
            )
    _change(connection, device, job, report.state, report, now)
    if report.state is JobState.FAILED:
        release_claims(connection, job, [device], now)


def release_claims(connection: Connection, job: int, names: Sequence[str], now: datetime) -> None:
    """End the claims of devices on the model of a job, so that others with the same machine may measure."""
    model = select(benchmark_jobs.c.model).where(benchmark_jobs.c.job == job).scalar_subquery()
    claims = benchmarks.c.model == model, benchmarks.c.device.in_(names), benchmarks.c.claimed_until > now
    connection.execute(update(benchmarks).where(*claims).values(claimed_until=now))


def order_of(connection: Connection, device: str, job: int, model: str) -> BenchmarkJobRequest | None:
    """Return the request of a job of this model that is open for the device; None without one."""
    both = benchmark_job_devices.join(benchmark_jobs, benchmark_jobs.c.job == benchmark_job_devices.c.job)
    open_job = *_is_open(device, job), benchmark_jobs.c.model == model
    if connection.execute(select(benchmark_jobs.c.job).select_from(both).where(*open_job)).first() is None:
        return None
    return _request(connection, job)


def _first_open_job(connection: Connection, device: str) -> int | None:
    open_rows = benchmark_job_devices.c.device == device, benchmark_job_devices.c.state.in_(OPEN_STATES)
    query = select(benchmark_job_devices.c.job).where(*open_rows).order_by(benchmark_job_devices.c.job).limit(1)
    job: int | None = connection.execute(query).scalar_one_or_none()
    return job


def _request(connection: Connection, job: int) -> BenchmarkJobRequest:
    raw = connection.execute(select(benchmark_jobs.c.request).where(benchmark_jobs.c.job == job)).scalar_one()
    return wire.decode(raw, BenchmarkJobRequest, what="the stored benchmark job")


def _change(connection: Connection, device: str, job: int, state: JobState, report: BenchmarkProgress, now: datetime) -> None:
    values = {"state": state, "progress": wire.encode(report), "changed_at": now}
    if connection.execute(update(benchmark_job_devices).where(*_is_open(device, job)).values(values)).rowcount != 1:
        raise ConflictError(f"job {job} must be open for {device}, but it was canceled, is finished, or is not for this device")
    raise_counter(connection, Counter.CHANGES)


def _is_open(device: str, job: int) -> tuple[ColumnElement[bool], ...]:
    rows = benchmark_job_devices.c
    return rows.device == device, rows.job == job, rows.state.in_(OPEN_STATES)
