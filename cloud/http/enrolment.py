"""Enrolment: operators issue tokens, and devices exchange a token and a CSR for a certificate."""

from __future__ import annotations

from starlette.responses import Response

from cloud.auth import Access
from cloud.fleet import devices
from cloud.http.endpoint import Call, Endpoint
from cloud.state.certificates import certificate_pem
from edgewright.contracts import signing
from edgewright.contracts.connection.enrolment import (
    EnrolmentToken,
    EnrolRequest,
    EnrolResponse,
    IssuedToken,
    TokenRequest,
    format_token,
)
from edgewright.contracts.names import TENANT
from edgewright.errors import ConflictError


def issue_token(call: Call) -> IssuedToken:
    """Issue a token that contains the cloud's address and the digest of its authority."""
    if call.cloud.url.startswith("http://"):
        raise ConflictError(
            f"devices authenticate with certificates, which need TLS, but the cloud at {call.cloud.url} has none: "
            "start one without --plain-http"
        )
    with call.cloud.database.transaction() as connection:
        secret, expires_at = devices.issue_token(connection, call.body, call.now)
    token = EnrolmentToken(url=call.cloud.url, ca_sha256=call.cloud.state.authority.sha256(), secret=secret)
    return IssuedToken(token=format_token(token), expires_at=expires_at)


def certificate_authority(call: Call) -> Response:
    """Return the authority's certificate; the device compares it with the digest in its token."""
    return Response(call.cloud.state.authority.pem, media_type="application/x-pem-file")


def enrol(call: Call) -> EnrolResponse:
    """Enrol the device and return its certificate and the trusted keys."""
    cloud, request = call.cloud, call.body
    with cloud.database.transaction() as connection:
        enrolled = devices.enrol(
            connection, request, cloud.state.authority, call.now, key=cloud.state.signing_key, days=cloud.device_days
        )
    return EnrolResponse(
        device=enrolled.device,
        tenant=TENANT,
        certificate_pem=certificate_pem(enrolled.certificate).decode("ascii"),
        ca_pem=cloud.state.authority.pem,
        cloud_key_pem=signing.public_pem(cloud.state.signing_key.public_key()),
        publisher_keys_pem=cloud.state.publisher_keys(),
        broker=cloud.broker,
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/tokens",
        access=Access.OPERATOR,
        summary="Issue a one-time enrolment token.",
        handler=issue_token,
        request_type=TokenRequest,
        response_type=IssuedToken,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/ca",
        access=Access.ANYONE,
        summary="The certificate of the cloud's authority as PEM.",
        handler=certificate_authority,
        response_type=bytes,
        media_types=("application/x-pem-file",),
    ),
    Endpoint(
        method="POST",
        path="/v1/enrol",
        access=Access.ANYONE,
        summary="Enrol a device with a token and a CSR.",
        handler=enrol,
        request_type=EnrolRequest,
        response_type=EnrolResponse,
        status=201,
    ),
)
