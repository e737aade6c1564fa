"""The telemetry of an endpoint: the items that its script recorded, read from the log of the service.

A script has no credential for the cloud. Its `TelemetryClient` writes each item as one line, which reaches the log of the service
from processes and from containers alike:

    <time> <request id> telemetry {"at": ..., "kind": "metric", "name": ..., "value": ...}

The log keeps the newest 16 MiB, over restarts and updates; so long are items found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgewright.contracts.endpoints import TelemetryItem
from edgewright.errors import BadInputError

MAX_ITEMS = 10_000
_MARK = " telemetry {"
_OWN = frozenset({"at", "kind", "name", "value", "text", "properties", "measurements"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A filter of items; the newest `limit` matches are returned, oldest first."""

    name: str | None = None
    kind: str | None = None
    limit: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_ITEMS:
            raise BadInputError(f"limit must be 1 to {MAX_ITEMS}, not {self.limit}")


def find(lines: Iterable[str], query: Query) -> tuple[TelemetryItem, ...]:
    """Return the matching items in the lines of a log; a line that is cut or damaged is passed over."""
    items = [each for each in _items(lines) if query.name in (None, each.name) and query.kind in (None, each.kind)]
    return tuple(items[-query.limit :])


def _items(lines: Iterable[str]) -> Iterator[TelemetryItem]:
    for line in lines:
        head, mark, rest = line.partition(_MARK)
        if mark:
            item = _item("{" + rest, head.rpartition(" ")[2])
            if item is not None:
                yield item


def _item(text: str, request: str) -> TelemetryItem | None:
    try:
        stored: Mapping[str, Any] = json.loads(text)
        at, value = datetime.fromisoformat(stored["at"]), stored.get("value")
        fields = {**(stored.get("properties") or {}), **(stored.get("measurements") or {})}
        return TelemetryItem(
            at=at,
            kind=str(stored["kind"]),
            name=str(stored.get("name", "")),
            value=None if value is None else float(value),
            text=str(stored.get("text", "")),
            request=request,
            fields={str(name): _plain(each) for name, each in {**fields, **_rest(stored)}.items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _rest(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stored.items() if name not in _OWN}


def _plain(value: Any) -> str | float | int | bool | None:
    return value if isinstance(value, str | float | int | bool | None) else json.dumps(value)
