"""Compressed bodies of requests and responses: gzip and deflate (RFC 9110, section 8.4.1).

A request may be compressed with `Content-Encoding: gzip` or `deflate`. The limit of a body applies to what it unpacks to, and
nothing beyond the limit is unpacked. A response is compressed if the client accepts it (section 12.5.3) and it is long enough.
Deflate is the zlib format (RFC 1950); a raw deflate stream, which some clients send under that name, is read as well.
"""

from __future__ import annotations

import gzip
import zlib

from edgewright.serving.http.messages import HttpError, Response

CODINGS = ("gzip", "deflate")
MAX_RATIO = 1032
"""Content bytes per byte of deflate, at most: a match of 258 bytes takes at least 2 bits (RFC 1951)."""
MIN_COMPRESSED_BYTES = 1024
"""Shorter responses fit one packet, so compression would only cost time."""

_IDENTITY = ("", "identity")
_LEVEL = 1  # numbers in JSON become 3 times smaller at any level; higher ones take several times as long
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, section 8.4.1.3
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZLIB_METHOD = 8


def coding_of(content_encoding: str) -> str | None:
    """Return the coding of a body, None if it is not compressed.

    Raises:
        HttpError: the coding is unknown, or there are several (415).
    """
    name = content_encoding.strip().lower()
    if name in _IDENTITY:
        return None
    coding = _ALIASES.get(name, name)
    if coding not in CODINGS:
        text = f"Content-Encoding must be {' or '.join(CODINGS)} or absent, not {content_encoding[:40]}"
        raise HttpError(415, text, (("accept-encoding", ", ".join(CODINGS)),))
    return coding


def unpacked(body: bytes, coding: str, *, limit_bytes: int) -> bytes:
    """Return the content of a compressed body.

    Raises:
        HttpError: it unpacks to more than `limit_bytes` (413), or is damaged or cut off (400).
    """
    content: list[bytes] = []
    size = 0
    rest = body
    while rest or not content:
        member = zlib.decompressobj(_window(rest, coding))
        try:
            content.append(member.decompress(rest, limit_bytes - size + 1))
        except zlib.error as error:
            raise HttpError(400, f"the body must be {coding}, but it is damaged: {error}") from error
        size += len(content[-1])
        if size > limit_bytes:
            raise HttpError(413, f"a body must unpack to at most {limit_bytes} bytes, but this one is longer")
        if not member.eof:
            raise HttpError(400, f"the body must be {coding}, but it is cut off after {len(body)} bytes")
        rest = member.unused_data
        if rest and coding != "gzip":  # several members are a feature of gzip alone (RFC 1952, section 2.2)
            raise HttpError(400, f"the body must be {coding}, but {len(rest)} bytes follow its end")
    return b"".join(content)


def compressed(response: Response, accept_encoding: str) -> Response:
    """Return the response in a coding that the client accepts; unchanged if it is short, or if the client accepts none."""
    if len(response.body) < MIN_COMPRESSED_BYTES or any(name.lower() == "content-encoding" for name, _ in response.headers):
        return response
    coding = _accepted(accept_encoding)
    if coding is None:
        return response
    packed = gzip.compress(response.body, _LEVEL, mtime=0) if coding == "gzip" else zlib.compress(response.body, _LEVEL)
    headers = (*response.headers, ("content-encoding", coding), ("vary", "accept-encoding"))
    return Response(response.status, packed, response.media_type, headers)


def _window(body: bytes, coding: str) -> int:
    if coding == "gzip":
        return _GZIP_WINDOW
    has_header = len(body) >= 2 and body[0] & 0x0F == _ZLIB_METHOD and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


def _accepted(accept_encoding: str) -> str | None:
    """Return the coding that the client prefers, gzip first among equals."""
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        name, _, parameters = item.partition(";")
        weights[_ALIASES.get(name.strip(), name.strip())] = _weight(parameters)
    others = weights.get("*", 0.0)
    best = max(CODINGS, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
