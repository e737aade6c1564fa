"""Limits of an HTTP connection before authentication: size of the headers, and time to send a request.

They are those of the scoring server (connections/connection.py) and of the cloud, whose applications limit the bodies.
"""

from __future__ import annotations

MAX_HEADER_BYTES = 64 << 10
"""Maximum size of a request line with all headers and trailers."""
HEADER_TIME_S = 20.0
"""Maximum time from the first byte of a request, or from the start of the connection, to the end of the headers."""
BODY_IDLE_S = 60.0
"""Maximum pause between two pieces of a body."""
KEEP_ALIVE_S = 5.0
"""Maximum pause between two requests of the scoring server."""
CLIENT_READS_S = 60.0
"""Maximum time in which a client of the scoring server reads nothing of a response that is larger than the buffers."""

NOT_HTTP = "a request must follow HTTP/1.1, but this one does not"
HEADERS_TOO_LARGE = f"the headers of a request must be at most {MAX_HEADER_BYTES} bytes, but they are longer: send fewer of them"


def too_slow(part: str, limit_s: float) -> str:
    """Return the text of the refusal of a request whose `part` did not arrive in time."""
    return f"the {part} must arrive within {limit_s:g} s, but did not: send the request again"
