"""Benchmarks that devices with the same kind of machine share: each basis is measured by one device.

    claim     return the stored result, or give the device the right to measure, or let it wait for the one that has it
    store     verify the device's signature, and store its result beside the envelope that the cloud signs for other devices
    results   the stored results, for operators
    forget    delete the results of a model, so that the next device measures again

A device may measure only models of its own desired state or of an open benchmark job, and only the device that holds the claim
may store a result. The first result stays, unless a job asks for another. A claim expires, because a device may be switched off.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from sqlalchemy import ColumnElement, Connection, delete, or_, select, update

from cloud.db.database import Counter, insert_or_ignore, raise_counter
from cloud.db.schema import benchmarks
from cloud.fleet import devices
from cloud.fleet.benchmark_jobs import order_of
from edgewright.contracts import signing, wire
from edgewright.contracts.connection.benchmark_jobs import BenchmarkJobRequest
from edgewright.contracts.connection.benchmarks import (
    BENCHMARK_TYPE,
    SHARED_BENCHMARK_TYPE,
    BenchmarkAnswer,
    BenchmarkClaim,
    BenchmarkResult,
)
from edgewright.contracts.names import nearest
from edgewright.errors import ConflictError, DeniedError, NotFoundError, SignatureError

CLAIM = timedelta(minutes=10)
"""Time in which a device pulls and measures all variants before another device may."""


def claim(connection: Connection, device: str, request: BenchmarkClaim, now: datetime) -> BenchmarkAnswer:
    """Return the result on a basis, or decide that `device` measures, or that it waits; with `release` end its claim.

    Raises:
        DeniedError: neither the device's desired state nor an open job of it names the model.
    """
    job = _permission(connection, device, request.model, request.job, now)
    if request.release:
        own = *_is(request.model, request.basis), benchmarks.c.device == device
        connection.execute(update(benchmarks).where(*own).values(claimed_until=now))
        return BenchmarkAnswer()
    row = {
        "model": request.model,
        "basis": request.basis,
        "fingerprint": request.fingerprint,
        "device": device,
        "claimed_until": now,
    }
    connection.execute(insert_or_ignore(connection, benchmarks).values(row))
    is_free = or_(benchmarks.c.device == device, benchmarks.c.claimed_until <= now)
    taken = update(benchmarks).where(*_is(request.model, request.basis), _is_due(request.job, job), is_free)
    lasts = CLAIM if job is None else max(CLAIM, timedelta(seconds=job.budget_s))
    if connection.execute(taken.values(device=device, claimed_until=now + lasts)).rowcount == 1:
        return BenchmarkAnswer(measure=True)
    shared, of_job = connection.execute(
        select(benchmarks.c.shared, benchmarks.c.job).where(*_is(request.model, request.basis))
    ).one()
    if shared is None or (request.job is not None and job is not None and job.again and (of_job or 0) < request.job):
        return BenchmarkAnswer()
    return BenchmarkAnswer(envelope=wire.decode(shared, signing.Envelope, what="the stored benchmark"))


def store(
    connection: Connection,
    key: signing.PrivateKey,
    device: str,
    certificate: x509.Certificate,
    envelope: signing.Envelope,
    now: datetime,
) -> None:
    """Store the result of the device that holds the claim.

    Raises:
        DeniedError: the key of the device's certificate did not sign it, or it names another device or a foreign model.
        ConflictError: the device does not hold the claim.
        MessageError: the result cannot be decoded.
    """
    payload = _verified(certificate, envelope)
    result = wire.decode(payload, BenchmarkResult, what=f"the benchmark of {device}")
    if result.device != device:
        raise DeniedError(f"a benchmark of device {device} must name that device, but it names {result.device}")
    job = _permission(connection, device, result.model, result.job, now)
    values = {
        "result": payload,
        "envelope": wire.encode(envelope),
        "shared": signing.sign(payload, SHARED_BENCHMARK_TYPE, key),
        "fingerprint": result.fingerprint,
        "job": result.job,
    }
    is_claimed = benchmarks.c.device == device, _is_due(result.job, job)
    stored = update(benchmarks).where(*_is(result.model, result.basis), *is_claimed)
    if connection.execute(stored.values(values)).rowcount != 1:
        raise ConflictError(
            f"{device} must claim the benchmark of {result.model} before it sends a result, but another device has the claim, "
            "or there is a result: use that one"
        )
    raise_counter(connection, Counter.CHANGES)


def results(connection: Connection, model: str | None = None) -> list[BenchmarkResult]:
    """Return the stored results of a model, or of all, sorted by model and machine."""
    query = select(benchmarks.c.result).where(benchmarks.c.result.is_not(None))
    if model is not None:
        query = query.where(benchmarks.c.model == model)
    rows = connection.execute(query.order_by(benchmarks.c.model, benchmarks.c.fingerprint, benchmarks.c.basis)).scalars()
    return [wire.decode(row, BenchmarkResult, what="the stored benchmark") for row in rows]


def forget(connection: Connection, model: str) -> list[BenchmarkResult]:
    """Delete the results and claims of a model; return the results.

    Raises:
        NotFoundError: there is no result of the model.
    """
    deleted = results(connection, model)
    if not deleted:
        raise NotFoundError(
            f"no device has measured {model[:64]!r}{nearest(model, [each.model for each in results(connection)])}"
        )
    connection.execute(delete(benchmarks).where(benchmarks.c.model == model))
    raise_counter(connection, Counter.CHANGES)
    return deleted


def _is(model: str, basis: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return benchmarks.c.model == model, benchmarks.c.basis == basis


def _is_due(number: int | None, job: BenchmarkJobRequest | None) -> ColumnElement[bool]:
    """Return the condition that a row has no result, or for a job that measures again: none of this job or a later one."""
    if number is None or job is None or not job.again:
        return benchmarks.c.shared.is_(None)
    return or_(benchmarks.c.shared.is_(None), benchmarks.c.job.is_(None), benchmarks.c.job < number)


def _permission(connection: Connection, device: str, model: str, number: int | None, now: datetime) -> BenchmarkJobRequest | None:
    """Return the open job that permits the device to measure a model; None if its desired state does.

    Raises:
        DeniedError: neither does.
    """
    if number is not None:
        job = order_of(connection, device, number, model)
        if job is None:
            raise DeniedError(f"job {number} must be an open benchmark job of {device} for {model}, but it is not")
        return job
    desired = devices.record(connection, device, now).desired
    if desired is None or all(each.model != model for each in desired.every_workload):
        raise DeniedError(f"the desired state of {device} must name {model} before its benchmarks are shared, but it does not")
    return None


def _verified(certificate: x509.Certificate, envelope: signing.Envelope) -> bytes:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey), "the authority signs no other kind of key"
    try:
        return signing.TrustedKeys((key,)).verify(wire.encode(envelope), BENCHMARK_TYPE)
    except SignatureError as error:
        raise DeniedError(f"a benchmark must be signed by the key of the device's certificate: {error}") from error
