"""The console at `/` and its static files, which contain no secrets: the page requests its data with the operator token.

The content security policy restricts the page to this server and to these scripts, so text from devices cannot run as code.
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
    """Return the page."""
    return _file("index.html")


def page_file(call: Call) -> Response:
    """Return a static file of the page."""
    return _file(call.path("file"))


def _file(name: str) -> Response:
    files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    if name not in files:
        raise NotFoundError(f"the console has no file {name[:64]!r}; its page is /")
    return Response(files[name].read_bytes(), headers={**_HEADERS, "Content-Type": _TYPES[files[name].suffix]})


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/",
        access=Access.ANYONE,
        summary="The console.",
        handler=page,
        response_type=bytes,
        media_types=("text/html",),
    ),
    Endpoint(
        method="GET",
        path="/console/{file}",
        access=Access.ANYONE,
        summary="A file of the console.",
        handler=page_file,
        response_type=bytes,
        media_types=tuple(each.partition(";")[0] for each in _TYPES.values()),
    ),
)
