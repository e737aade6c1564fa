"""The page `/docs`, on which a person tries requests: one file, without any other host.

The page holds nothing about the model, so it needs no key; the requests that it sends do.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

from edgewright.serving.http.messages import Request, Response


@functools.cache
def page() -> Response:
    """Return the page; its policy (CSP) allows its own script and requests to this server, nothing else."""
    text = Path(__file__).with_suffix(".html").read_text("utf-8")
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
    headers = (("content-security-policy", f"{policy}; form-action 'none'"), ("x-content-type-options", "nosniff"))
    return Response(200, text.encode(), "text/html; charset=utf-8", headers)


async def answer(_request: Request) -> Response:
    """Answer `GET /docs`."""
    return page()
