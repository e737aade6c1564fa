"""The next certificate: for a member over its present one, and for a device whose certificate has expired (P14, P15)."""

from __future__ import annotations

import logging

from cloud.auth import Access
from cloud.fleet import renewals
from cloud.fleet.devices import Enrolled
from cloud.http.endpoint import Call, Endpoint
from cloud.state.certificates import certificate_pem, serial_of
from edgewright.contracts.messages import IssuedCertificate, RenewalChallenge, RenewalRequest
from edgewright.contracts.signing import Envelope

_LOG = logging.getLogger("edgewright.cloud")


def renew(call: Call) -> IssuedCertificate:
    """Give the member its next certificate."""
    cloud, present = call.cloud, call.caller.certificate
    assert present is not None, "the endpoint is for devices, and a device is who shows a certificate"
    with cloud.database.transaction() as connection:
        renewed = renewals.over_tls(
            connection, cloud.state.authority, present, call.body.csr_pem, call.now, days=cloud.device_days
        )
    return _issued(renewed, how="tls")


def challenge(call: Call) -> RenewalChallenge:
    """Give a nonce to whoever asks; it is worth something only to who holds a device's key."""
    return renewals.challenge(call.cloud.state.authority, call.now)


def renew_expired(call: Call) -> IssuedCertificate:
    """Let a device back in that proves to hold the key of its expired certificate."""
    cloud = call.cloud
    with cloud.database.transaction() as connection:
        renewed = renewals.by_proof(connection, cloud.state.authority, call.body, call.now, days=cloud.device_days)
    return _issued(renewed, how="proof")


def _issued(renewed: Enrolled, *, how: str) -> IssuedCertificate:
    certificate = renewed.certificate
    expires_at = certificate.not_valid_after_utc
    _LOG.info(
        "renewed device=%s how=%s serial=%s expires_at=%s", renewed.device, how, serial_of(certificate), expires_at.isoformat()
    )
    return IssuedCertificate(
        device=renewed.device, certificate_pem=certificate_pem(certificate).decode("ascii"), expires_at=expires_at
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/device/certificate",
        access=Access.DEVICE,
        summary="The next certificate of the device that asks, for a new key; those that it has stay good until they expire.",
        handler=renew,
        takes=RenewalRequest,
        gives=IssuedCertificate,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/renew",
        access=Access.ANYONE,
        summary="A nonce to sign, for a device whose certificate has expired.",
        handler=challenge,
        gives=RenewalChallenge,
    ),
    Endpoint(
        method="POST",
        path="/v1/renew",
        access=Access.ANYONE,
        summary="The next certificate of a device whose last one has expired: an envelope over a `RenewalProof`, by the old key.",
        handler=renew_expired,
        takes=Envelope,
        gives=IssuedCertificate,
        status=201,
    ),
)
