"""Certificate renewal, with a valid certificate (protocol.md P14) and after expiry (P15)."""

from __future__ import annotations

import logging

from cloud.auth import Access
from cloud.fleet import renewals
from cloud.fleet.devices import Enrolled
from cloud.http.endpoint import Call, Endpoint
from cloud.state.certificates import certificate_pem, serial_of
from edgewright.contracts.connection.renewal import IssuedCertificate, RenewalChallenge, RenewalRequest
from edgewright.contracts.signing import Envelope

_LOG = logging.getLogger("edgewright.cloud")


def renew(call: Call) -> IssuedCertificate:
    """Issue the next certificate to the device."""
    cloud, present = call.cloud, call.caller.certificate
    assert present is not None, "a device authenticates with a certificate"
    with cloud.database.transaction() as connection:
        renewed = renewals.over_tls(
            connection, cloud.state.authority, present, call.body.csr_pem, call.now, days=cloud.device_days
        )
    return _issued(renewed, method="tls")


def challenge(call: Call) -> RenewalChallenge:
    """Return a nonce; only the holder of a device key can use it."""
    return renewals.challenge(call.cloud.state.authority, call.now)


def renew_expired(call: Call) -> IssuedCertificate:
    """Issue the next certificate to a device that proves possession of the key of its expired one."""
    cloud = call.cloud
    with cloud.database.transaction() as connection:
        renewed = renewals.by_proof(connection, cloud.state.authority, call.body, call.now, days=cloud.device_days)
    return _issued(renewed, method="proof")


def _issued(renewed: Enrolled, *, method: str) -> IssuedCertificate:
    certificate = renewed.certificate
    expires_at = certificate.not_valid_after_utc
    _LOG.info(
        "renewed device=%s method=%s serial=%s expires_at=%s",
        renewed.device,
        method,
        serial_of(certificate),
        expires_at.isoformat(),
    )
    return IssuedCertificate(
        device=renewed.device, certificate_pem=certificate_pem(certificate).decode("ascii"), expires_at=expires_at
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/device/certificate",
        access=Access.DEVICE,
        summary="Issue the next certificate of the device for a new key; earlier ones stay valid until they expire.",
        handler=renew,
        request_type=RenewalRequest,
        response_type=IssuedCertificate,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/renew",
        access=Access.ANYONE,
        summary="A nonce to sign, for a device whose certificate has expired.",
        handler=challenge,
        response_type=RenewalChallenge,
    ),
    Endpoint(
        method="POST",
        path="/v1/renew",
        access=Access.ANYONE,
        summary="Issue a certificate to a device whose last one has expired, for a `RenewalProof` signed by the old key.",
        handler=renew_expired,
        request_type=Envelope,
        response_type=IssuedCertificate,
        status=201,
    ),
)
