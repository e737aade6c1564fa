"""Enrolment tokens as text: one string to paste, with the address of the cloud and the digest of its authority."""

from __future__ import annotations

import base64
import binascii

from edgewright.contracts import wire
from edgewright.contracts.messages import EnrolmentToken
from edgewright.errors import DeniedError

PREFIX = "ew1."


def format_token(token: EnrolmentToken) -> str:
    """Return the text of a token."""
    return PREFIX + base64.urlsafe_b64encode(wire.encode(token)).rstrip(b"=").decode("ascii")


def parse_token(text: str) -> EnrolmentToken:
    """Parse a token.

    Raises:
        DeniedError: the text is not a token, or it is damaged.
    """
    body = text.strip().removeprefix(PREFIX)
    if not text.strip().startswith(PREFIX):
        raise DeniedError(f"an enrolment token starts with {PREFIX!r}; 'edgewright devices token' creates one")
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error as error:
        raise DeniedError("the enrolment token is damaged: copy the whole line") from error
    return wire.decode(raw, EnrolmentToken, what="the enrolment token", error=DeniedError)
