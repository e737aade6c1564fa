"""Queries, and configurations of many devices: their rules, and Azure's service library against a running hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloud.iothub.deployments import content
from cloud.iothub.deployments.query import parse_condition, parse_query
from cloud.iothub.refusal import RefusalError
from tests.support.running_hub import running_hub

TWIN = {
    "deviceId": "press-1",
    "tags": {"site": "north", "line": 3, "on": True, "none": None},
    "properties": {"reported": {"fw": "1.2"}},
    "configurations": {"c-1": {"status": "Applied"}},
}


@pytest.mark.parametrize(
    ("condition", "outcome"),
    [
        ("*", True),
        ("deviceId = 'press-1'", True),
        ("tags.site = 'south' OR tags.line >= 3", True),
        ("NOT tags.site = 'south' AND tags.line < 3", False),
        ("tags.site IN ['south', \"north\"]", True),
        ("(tags.on = true) and properties.reported.fw != '1.1'", True),
        ("reported.fw = '1.2'", True),
        ("configurations.[[c-1]].status = 'Applied'", True),
        ("tags.missing = 1", None),
        ("NOT tags.missing = 1", None),
        ("tags.missing = 1 OR tags.line = 3", True),
        ("tags.missing = 1 AND tags.line = 4", False),
        ("tags.site < 4", None),
        ("tags.on = 1", False),
        ("IS_DEFINED(tags.site) AND NOT IS_DEFINED(tags.missing)", True),
        ("IS_NULL(tags.none)", True),
        ("STARTSWITH(deviceId, 'pre') AND ENDSWITH(deviceId, '-1') AND CONTAINS(deviceId, 'ess')", True),
    ],
)
def test_a_condition_selects_a_twin(condition: str, outcome: bool | None) -> None:
    assert parse_condition(condition)(TWIN) is outcome


def test_a_query_selects_counts_and_renames() -> None:
    other = {"deviceId": "press-2", "tags": {"site": "south"}}
    assert parse_query("SELECT * FROM devices WHERE tags.site = 'south'").run([TWIN, other]) == [other]
    assert parse_query("select count() as n from devices").run([TWIN, other]) == [{"n": 2}]
    rows = parse_query("SELECT deviceId, tags.line AS line FROM devices").run([TWIN, other])
    assert rows == [{"deviceId": "press-1", "line": 3}, {"deviceId": "press-2"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT * FROM jobs", "FROM must be devices or devices.modules, not 'jobs'"),
        ("SELECT * FROM devices WHERE tags.a", "a comparison must follow, not ''"),
        ("SELECT * FROM devices WHERE tags.a = ?", "unexpected text at character 37: ' ?'"),
        ("SELECT * FROM devices GROUP BY tags.a", "the query must end before 'GROUP'"),
        ("SELECT * FROM devices WHERE " + "(" * 60, "a condition must be at most 50 levels deep"),
    ],
)
def test_a_query_that_cannot_be_parsed_is_refused(text: str, message: str) -> None:
    with pytest.raises(RefusalError) as caught:
        parse_query(text)
    assert (caught.value.code, str(caught.value)) == ("InvalidQuery", f"the query cannot be used: {message}")


def test_the_higher_priority_decides_per_path() -> None:
    low = {"properties.desired.poll.interval_s": 60, "properties.desired.poll.jitter": 1}
    high = {"properties.desired.poll.interval_s": 5, "properties.desired.level": "x"}
    assert content.settings_of([low, high]) == {"poll": {"interval_s": 5, "jitter": 1}, "level": "x"}


def test_layers_add_to_the_highest_base_and_those_below_it_have_no_effect() -> None:
    def base(version: int) -> dict[str, Any]:
        return {"$edgeAgent": {"properties.desired": {"modules": {"camera": {"version": version}}}}}

    below, above = (
        {"$edgeAgent": {"properties.desired.modules.lost": 1}},
        {"$edgeAgent": {"properties.desired.modules.ocr": 2}, "ocr": {"properties.desired.lines": 3}},
    )
    assert content.manifest_of([base(1), below, base(2), above]) == {
        "$edgeAgent": {"modules": {"camera": {"version": 2}, "ocr": 2}},
        "ocr": {"lines": 3},
    }
    assert content.manifest_of([above]) == {}


def test_configurations_with_the_service_library_of_azure(tmp_path: Path, clients_python: Path) -> None:
    with running_hub(tmp_path) as hub:
        result = hub.call(clients_python, "configurations")["configurations"]

    assert result == {
        "north": {"poll": {"interval_s": 5}, "level": "low"},
        "south": {"poll": {"interval_s": 60}, "level": "low"},
        "patches": [
            {"poll": {"interval_s": 60}, "level": "low", "$version": 2},
            {"poll": {"interval_s": 5}, "$version": 3},
        ],
        "metrics": [{"targetedCount": 1, "appliedCount": 1}, {"slow": 1}],
        "north after deletion": {"poll": {"interval_s": 60}, "level": "low"},
        "test": "the query cannot be used: a property or a constant must follow, not '='",
        "single": {"camera": {"version": 1}},
        "layered": {"camera": {"version": 1}, "ocr": {"version": 2}},
        "module": 3,
        "modules": ["$edgeAgent", "$edgeHub", "camera", "ocr"],
        "applied": {"targetedCount": 1, "appliedCount": 1},
        "modules without the layer": ["$edgeAgent", "$edgeHub", "camera"],
        "queried": ["south-1"],
        "bad content": "ErrorCode:InvalidConfigurationContent",
    }
