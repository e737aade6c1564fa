"""Telemetry in the lines of a log: what is found, what is passed over."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from cloud.endpoints.telemetry import Query, find
from edgewright.contracts.endpoints import TelemetryItem

AT = "2030-01-31T12:00:00+00:00"


def line(**fields: object) -> str:
    return f"2030-01-31T12:00:01.000000Z request-7 telemetry {json.dumps({'at': AT, **fields})}"


def test_items_are_found_between_other_lines_and_filtered() -> None:
    lines = ["started pid=7", line(kind="metric", name="gpu", value=1), "x", line(kind="event", name="gpu"), line(kind="trace")]
    metric = TelemetryItem(at=datetime(2030, 1, 31, 12, tzinfo=UTC), kind="metric", name="gpu", value=1.0, request="request-7")
    assert find(lines, Query())[0] == metric
    assert [each.kind for each in find(lines, Query())] == ["metric", "event", "trace"]
    assert [each.kind for each in find(lines, Query(limit=2))] == ["event", "trace"]
    assert [each.kind for each in find(lines, Query(name="gpu", kind="event"))] == ["event"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(line(kind="metric", name="gpu", value=1)[:-9], id="cut"),
        pytest.param(line(kind="metric", value="many"), id="no number"),
        pytest.param(line(name="gpu"), id="no kind"),
        pytest.param("a b telemetry {}", id="empty"),
        pytest.param('a b telemetry {"at": 7, "kind": "metric"}', id="no time"),
        pytest.param(line(kind="event", properties=[1]), id="properties are a list"),
    ],
)
def test_a_damaged_line_is_passed_over(text: str) -> None:
    assert find([text, line(kind="trace", text="next")], Query())[0].text == "next"


def test_nested_properties_are_kept_as_their_text() -> None:
    [item] = find([line(kind="event", name="e", properties={"rows": [1, 2]}, measurements={"bytes": 7})], Query())
    assert item.fields == {"rows": "[1, 2]", "bytes": 7}
