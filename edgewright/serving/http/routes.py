"""Routes of a scoring application: methods, handler, and the rules of a path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from edgewright.serving.http.messages import Pending, Request, Response

Handler = Callable[[Request], Response | Pending | Awaitable[Response]]
"""A coroutine function, which is run as a Task; or a plain function that returns the response or delivers it later."""


class Route(NamedTuple):
    """Methods that a path accepts, and the handler of its requests."""

    methods: tuple[str, ...]
    handler: Handler
    is_scoring: bool = False
    """True if a failure counts in the statistics."""
    is_public: bool = False
    """True if no key is needed, as for the probes of an orchestrator."""


def get(handler: Handler, *, public: bool = False) -> Route:
    """Return the route of a path that is read."""
    return Route(("GET", "HEAD"), handler, is_public=public)


def post(handler: Handler) -> Route:
    """Return the route of a path that scores."""
    return Route(("POST",), handler, is_scoring=True)
