"""The page at `/` and its files, which hold nothing secret: what the page shows it asks for with the operator's token.

The policy lets the page load and call this server only, and run no script that is not one of these files: whatever a device
says of itself stays text.
"""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from edgewright.errors import NotFoundError

_FOLDER = Path(__file__).parent.parent / "console"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page(_call: Call) -> Response:
    """Give the page."""
    return _file("index.html")


def page_file(call: Call) -> Response:
    """Give one of the page's files."""
    return _file(call.path("file"))


def _file(name: str) -> Response:
    known = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    if name not in known:
        raise NotFoundError(f"the console has no file {name[:64]!r}; it begins at /")
    return Response(known[name].read_bytes(), headers={**_HEADERS, "Content-Type": _TYPES[known[name].suffix]})


ENDPOINTS = (
    Endpoint(method="GET", path="/", access=Access.ANYONE, summary="The console.", handler=page, gives=bytes),
    Endpoint(
        method="GET",
        path="/console/{file}",
        access=Access.ANYONE,
        summary="A file of the console.",
        handler=page_file,
        gives=bytes,
    ),
)
