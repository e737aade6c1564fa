r"""Shared access signatures: the tokens of devices, modules, services and registrations.

    SharedAccessSignature sr=<resource>&sig=<base64 of HMAC-SHA256(key, sr + "\n" + se)>&se=<UNIX time>[&skn=<policy>]

Source: "Control access to IoT Hub with shared access signatures" (learn.microsoft.com/azure/iot-hub/authenticate-authorize-sas).
Signatures are compared in constant time, and with each key, so that the duration does not show which key was used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from edgewright.errors import BadInputError, DeniedError

_PREFIX = "SharedAccessSignature "
KEY_BYTES = (16, 64)
"""Shortest and longest key in bytes, as an IoT Hub accepts them."""


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed token; `signed` are the bytes under the signature."""

    resource: str
    expires_at: int
    policy: str
    signature: bytes = field(repr=False)
    signed: bytes = field(repr=False)


def parse(text: str) -> Token:
    """Return a token.

    Raises:
        DeniedError: the text is not a token.
    """
    fields = dict(part.partition("=")[::2] for part in text.removeprefix(_PREFIX).split("&"))
    if not text.startswith(_PREFIX) or not {"sr", "sig", "se"} <= fields.keys():
        raise DeniedError("the credential must be a shared access signature with sr, sig and se, but it is not")
    try:
        expires_at = int(fields["se"])
        signature = base64.b64decode(unquote(fields["sig"]), validate=True)
    except (ValueError, binascii.Error) as error:
        raise DeniedError("se of a shared access signature must be a number and sig base64, but they are not") from error
    signed = f"{fields['sr']}\n{fields['se']}".encode()
    return Token(unquote(fields["sr"]), expires_at, unquote(fields.get("skn", "")), signature, signed)


def check(token: Token, *, resource: str, keys: Iterable[str], now: float) -> None:
    """Check that a token allows `resource` at the UNIX time `now`; a token for `a/b` allows `a/b/c` as well.

    Raises:
        DeniedError: expired, for another resource, or not signed with one of the base64 `keys`.
    """
    matches = [hmac.compare_digest(_signature(key, token.signed), token.signature) for key in keys]
    if not any(matches):
        raise DeniedError("the signature does not match any key of the identity")
    if token.expires_at < now:
        raise DeniedError(f"the token expired {now - token.expires_at:.0f} s ago")
    allowed = token.resource.casefold()
    if resource.casefold() != allowed and not resource.casefold().startswith(f"{allowed}/"):
        raise DeniedError(f"the token must be for {resource}, not for {token.resource}")


def create(resource: str, key: str, expires_at: int, policy: str = "") -> str:
    """Return a token for `resource` that is valid until the UNIX time `expires_at`."""
    return create_signed(resource, lambda signed: signature(key, signed), expires_at, policy)


def create_signed(resource: str, sign: Callable[[bytes], str], expires_at: int, policy: str = "") -> str:
    """Return a token whose signature, as base64, comes from `sign`, which holds the key."""
    quoted = quote(resource, safe="")
    signature = sign(f"{quoted}\n{expires_at}".encode())
    suffix = f"&skn={quote(policy, safe='')}" if policy else ""
    return f"{_PREFIX}sr={quoted}&sig={quote(signature, safe='')}&se={expires_at}{suffix}"


def new_key() -> str:
    """Return a random key of 32 bytes as base64."""
    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def derive_key(group_key: str, registration: str) -> str:
    """Return the key of one device in an enrolment group: HMAC-SHA256 of its registration id."""
    return base64.b64encode(_signature(group_key, registration.encode())).decode("ascii")


def check_key(key: str) -> str:
    """Return a key; raise `BadInputError` unless it is base64 of 16 to 64 bytes. The message does not contain the key."""
    shortest, longest = KEY_BYTES
    try:
        length = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if not shortest <= length <= longest:
        raise BadInputError(f"a key must be base64 of {shortest} to {longest} bytes, but it is not: omit it to get a new one")
    return key


def signature(key: str, signed: bytes) -> str:
    """Return the HMAC-SHA256 of `signed` with a base64 key, as base64."""
    return base64.b64encode(_signature(key, signed)).decode("ascii")


def _signature(key: str, signed: bytes) -> bytes:
    return hmac.new(base64.b64decode(key), signed, hashlib.sha256).digest()
