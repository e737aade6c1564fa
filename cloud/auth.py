"""Who may do what: the one place where that is decided.

A device is whoever shows a certificate of the cloud's authority that was not revoked; an operator whoever sends the operator
token, as a bearer token or (container tools) as the password of user `operator`. Each endpoint names the `Access` it grants.
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
    """Whom an endpoint serves."""

    ANYONE = "anyone"
    DEVICE = "device"
    OPERATOR = "operator"
    MEMBER = "device or operator"


class Role(enum.Enum):
    """Who is asking."""

    STRANGER = "stranger"
    DEVICE = "device"
    OPERATOR = "operator"


class NoCredentialError(DeniedError):
    """A request without a valid credential."""

    http_status: ClassVar[int] = 401


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking; of a device, its name and the certificate that it showed."""

    role: Role
    device: str = ""
    certificate: x509.Certificate | None = None


_GRANTED = {
    Access.ANYONE: {Role.STRANGER, Role.DEVICE, Role.OPERATOR},
    Access.DEVICE: {Role.DEVICE},
    Access.OPERATOR: {Role.OPERATOR},
    Access.MEMBER: {Role.DEVICE, Role.OPERATOR},
}


def identify(authorization: str | None, certificate_pem: str | None, operator_token: str, database: Database) -> Caller:
    """Tell who is asking; a token counts before a certificate.

    Raises:
        NoCredentialError: a token that is not this cloud's.
        DeniedError: a certificate that was revoked or is no device's.
    """
    if authorization is not None:
        return _by_token(authorization, operator_token)
    if certificate_pem is None:
        return Caller(Role.STRANGER)
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode("ascii"))
    with database.reading() as connection:
        return Caller(Role.DEVICE, device_of_certificate(connection, certificate), certificate)


def check(access: Access, caller: Caller) -> None:
    """Raise `NoCredentialError` or `DeniedError` unless `access` is granted to `caller`."""
    if caller.role in _GRANTED[access]:
        return
    if caller.role is Role.STRANGER:
        raise NoCredentialError(f"this needs the credential of: {access.value}; none was shown")
    raise DeniedError(f"this is for: {access.value}; the credential shown is of: {caller.role.value}")


def _by_token(authorization: str, operator_token: str) -> Caller:
    scheme, _, credential = authorization.partition(" ")
    shown = _basic_password(credential) if scheme.lower() == "basic" else credential.strip()
    if scheme.lower() not in ("basic", "bearer") or not hmac.compare_digest(shown.encode(), operator_token.encode()):
        raise NoCredentialError("the operator token must be this cloud's: it is in operator.token of the state directory")
    return Caller(Role.OPERATOR)


def _basic_password(credential: str) -> str:
    try:
        user, _, password = base64.b64decode(credential, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password if user == OPERATOR_USER else ""
