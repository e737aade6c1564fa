"""Signed tokens that expire, for clients that must not hold a key: JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256 (HS256).

A token is signed with a secret that is derived from the primary or the secondary key of the service. Replacing that key therefore
ends its tokens, and a token reveals nothing about the key. The server accepts a token of either key until it expires.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable
from typing import Any

from edgewright.errors import BadInputError

_HEADER = {"alg": "HS256", "typ": "JWT"}
_PURPOSE = b"edgewright scoring token v1"
_CLOCK_DIFFERENCE_S = 30.0
"""Difference between the clocks of the issuer and of the service that a token's start may have."""
_LONGEST = 4096


def issue(key: str, *, now_s: float, lifetime_s: float) -> str:
    """Return a token that is valid for `lifetime_s` seconds after `now_s`, the Unix time.

    Raises:
        BadInputError: the lifetime is not positive.
    """
    if not lifetime_s > 0:
        raise BadInputError(f"the lifetime of a token must be more than 0 s, not {lifetime_s:g}")
    claims = {"iat": int(now_s), "exp": int(now_s + lifetime_s)}
    signed = ".".join(_encoded(json.dumps(part, separators=(",", ":")).encode()) for part in (_HEADER, claims))
    return f"{signed}.{_encoded(_signature(key.encode(), signed))}"


def is_token(credential: str) -> bool:
    """Return True if a credential has the form of a token."""
    return credential.count(".") == 2 and credential.startswith("eyJ") and len(credential) <= _LONGEST


def check(token: str, keys: Iterable[bytes], *, now_s: float) -> str | None:
    """Return the reason for which a token is refused, or None; the signature is checked before anything else is read."""
    signed, _, given = token.rpartition(".")
    raw = _decoded(given)
    matches = [hmac.compare_digest(raw, _signature(key, signed)) for key in keys]
    if not any(matches):
        return "the token was not signed with a key of this service"
    header, claims = (_object(part) for part in signed.split("."))
    if header.get("alg") != _HEADER["alg"]:
        return "the token must be signed with HS256"
    expires, issued = claims.get("exp"), claims.get("iat", now_s)
    if not isinstance(expires, int | float) or not isinstance(issued, int | float) or expires <= now_s:
        return "the token has expired: get a new one"
    return "the token is not valid yet" if issued > now_s + _CLOCK_DIFFERENCE_S else None


def _signature(key: bytes, signed: str) -> bytes:
    secret = hmac.digest(key, _PURPOSE, hashlib.sha256)
    return hmac.digest(secret, signed.encode("utf-8", "surrogateescape"), hashlib.sha256)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


def _object(part: str) -> dict[str, Any]:
    try:
        document = json.loads(_decoded(part))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
