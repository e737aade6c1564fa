"""Times of cron expressions, also over changes of the clock; the expected values are from a calendar."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cloud.pipelines.clock import next_time
from edgewright.errors import BadInputError


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("0 6 * * 1-5", "UTC", "2026-12-04T06:00", "2026-12-07T06:00"),  # Friday to Monday
        ("*/15 * * * *", "UTC", "2026-12-31T23:46", "2027-01-01T00:00"),
        ("0 0 29 2 *", "UTC", "2026-12-01T00:00", "2028-02-29T00:00"),
        ("0 8 * * *", "Europe/Paris", "2026-07-01T00:00", "2026-07-01T06:00"),
        ("0 8 * * *", "Europe/Paris", "2026-12-01T00:00", "2026-12-01T07:00"),
        ("30 2 * * *", "Europe/Paris", "2026-03-28T12:00", "2026-03-29T01:00"),  # 02:30 does not exist: at once after it, 03:00
        ("30 2 * * *", "Europe/Paris", "2026-10-24T12:00", "2026-10-25T00:30"),  # 02:30 comes twice: the first
        ("30 2 * * *", "Europe/Paris", "2026-10-25T00:30", "2026-10-26T01:30"),  # and not the second
    ],
)
def test_the_next_time(cron: str, zone: str, after: str, expected: str) -> None:
    found = next_time(cron, zone, datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "text"),
    [
        ("every day", "UTC", "must have five valid fields, as in '0 6"),
        ("61 * * * *", "UTC", "must have five valid fields"),
        ("0 0 30 2 *", "UTC", "not '0 0 30 2 [*]': Bad day-of-month"),
        ("0 0 31 4,6 *", "UTC", "not '0 0 31 4,6 [*]': Bad day-of-month"),
        ("0 0 * * *", "Mars/Base", "must be one of the IANA data base, as Europe/Paris, not 'Mars/Base'"),
        ("0 0 * * *", "../etc", "must be one of the IANA data base"),
    ],
)
def test_a_time_that_never_comes_is_one_line(cron: str, zone: str, text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        next_time(cron, zone, datetime(2026, 12, 1, tzinfo=UTC))
