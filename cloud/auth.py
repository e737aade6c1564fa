"""Authentication and authorisation of HTTP requests.

A device authenticates with a client certificate of the cloud's authority that is not revoked. An operator sends the operator
token, as a bearer token or (container tools) as the password of user `operator`. Each endpoint names the `Access` it requires.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
from dataclasses import dataclass
from typing import ClassVar

from cryptography import x509

from cloud.db.database import Database
from cloud.fleet.devices import device_of_certificate
from edgewright.errors import DeniedError

OPERATOR_USER = "operator"


class Access(enum.Enum):
    """The access that an endpoint requires."""

    ANYONE = "anyone"
    DEVICE = "device"
    OPERATOR = "operator"
    DEVICE_OR_OPERATOR = "device or operator"


class Role(enum.Enum):
    """The role of a caller."""

    ANONYMOUS = "anonymous"
    DEVICE = "device"
    OPERATOR = "operator"


class NoCredentialError(DeniedError):
    """A request without a valid credential (401)."""

    http_status: ClassVar[int] = 401


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated or anonymous caller; for a device, its name and certificate."""

    role: Role
    device: str = ""
    certificate: x509.Certificate | None = None


_GRANTED = {
    Access.ANYONE: {Role.ANONYMOUS, Role.DEVICE, Role.OPERATOR},
    Access.DEVICE: {Role.DEVICE},
    Access.OPERATOR: {Role.OPERATOR},
    Access.DEVICE_OR_OPERATOR: {Role.DEVICE, Role.OPERATOR},
}


def identify(authorization: str | None, certificate_pem: str | None, operator_token: str, database: Database) -> Caller:
    """Return the caller of a request; a token takes precedence over a certificate.

    Raises:
        NoCredentialError: the token is not the operator token of this cloud.
        DeniedError: the certificate was revoked or is not a device's.
    """
    if authorization is not None:
        return _by_token(authorization, operator_token)
    if certificate_pem is None:
        return Caller(Role.ANONYMOUS)
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode("ascii"))
    with database.reading() as connection:
        return Caller(Role.DEVICE, device_of_certificate(connection, certificate), certificate)


def check(access: Access, caller: Caller) -> None:
    """Raise `NoCredentialError` or `DeniedError` unless `caller` has `access`."""
    if caller.role in _GRANTED[access]:
        return
    if caller.role is Role.ANONYMOUS:
        raise NoCredentialError(
            f"this request requires the role {access.value}, but it has no credential: send a token or a certificate"
        )
    raise DeniedError(f"this request requires the role {access.value}, but the credential has the role {caller.role.value}")


def _by_token(authorization: str, operator_token: str) -> Caller:
    assert operator_token, "an empty token would make everybody an operator"
    scheme, _, credential = authorization.partition(" ")
    secret = _basic_password(credential) if scheme.lower() == "basic" else credential.strip()
    is_known = scheme.lower() in ("basic", "bearer") and secret != ""
    if not is_known or not hmac.compare_digest(secret.encode(), operator_token.encode()):
        raise NoCredentialError(
            "the operator token must be the one in operator.token of the cloud's state directory, but a different one was sent"
        )
    return Caller(Role.OPERATOR)


def _basic_password(credential: str) -> str:
    """Return the password of user `operator`; empty if the credential has none."""
    try:
        user, _, password = base64.b64decode(credential, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password if user == OPERATOR_USER else ""
