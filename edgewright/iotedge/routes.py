"""Routes of the IoT Edge hub: `FROM <source> [WHERE <condition>] INTO <sink>`.

Syntax: Microsoft's documentation "Learn how to deploy modules and establish routes in IoT Edge". The condition is in the query
language of IoT Hub; it is passed on as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgewright.errors import BadInputError

_ROUTE = re.compile(
    r"\s*FROM\s+(?P<source>\S+)(?:\s+WHERE\s+(?P<condition>.+?))?\s+INTO\s+(?P<sink>\S.*?)\s*", re.IGNORECASE | re.DOTALL
)
_NAME = "[A-Za-z0-9_-]+"
_SOURCES = re.compile(
    r"/\*|/messages/\*|/messages/modules/\*|/messages/modules/(?P<module>NAME)(?:/\*|/outputs/(?:\*|NAME))?"
    r"|/twinChangeNotifications|/deviceLifecycleEvents|/deviceConnectionStateEvents".replace("NAME", _NAME)
)
_SINK = re.compile(
    rf"\$upstream|BrokeredEndpoint\(\s*(?P<quote>[\"'])/modules/(?P<module>{_NAME})/inputs/{_NAME}(?P=quote)\s*\)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Route:
    """A parsed route."""

    source: str
    condition: str
    sink: str
    modules: tuple[str, ...]
    """Modules that it names."""


def parse_route(text: str) -> Route:
    """Parse a route.

    Raises:
        BadInputError: it has another form, or an unknown source or sink.
    """
    match = _ROUTE.fullmatch(text)
    if match is None:
        raise BadInputError(f"a route must be FROM <source> [WHERE <condition>] INTO <sink>, not {text!r}")
    source = _SOURCES.fullmatch(match["source"])
    if source is None:
        expected = "/*, /messages/*, /messages/modules/MODULE/outputs/OUTPUT or a part of these"
        raise BadInputError(f"the source of a route must be {expected}, not {match['source']}")
    sink = _SINK.fullmatch(match["sink"])
    if sink is None:
        expected = '$upstream or BrokeredEndpoint("/modules/MODULE/inputs/INPUT")'
        raise BadInputError(f"the sink of a route must be {expected}, not {match['sink']}")
    modules = tuple(name for name in (source["module"], sink["module"]) if name)
    return Route(match["source"], match["condition"] or "", match["sink"], modules)
