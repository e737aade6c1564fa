"""The rule when a renewal is due, with clocks that may be wrong."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.identity.identity import Validity
from edge_agent.renewal import due_in_s, spread

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DEVICES = [f"cam-{number}" for number in range(1000)]


def received(obtained_at: datetime, *, cloud_now: datetime = NOW) -> Validity:
    return Validity(not_before=cloud_now, not_after=cloud_now + 90 * DAY, obtained_at=obtained_at)


def is_due(validity: Validity, now: datetime, device: str = "cam-1") -> bool:
    return due_in_s(validity, device, now) <= 0


def test_a_certificate_is_due_after_two_thirds_of_its_life_and_before_three_quarters() -> None:
    moments = [due_in_s(received(NOW), device, NOW) / DAY.total_seconds() for device in DEVICES]
    assert min(moments) >= 60
    assert max(moments) <= 67.5


def test_renewals_of_a_fleet_are_spread_evenly_and_the_offset_of_a_device_is_constant() -> None:
    offsets = sorted(spread(device) for device in DEVICES)
    assert max(later - earlier for earlier, later in pairwise(offsets)) < 0.02
    assert spread("cam-1") == spread("cam-1") != spread("cam-2")


def test_a_constant_clock_error_changes_nothing() -> None:
    for clock in (NOW - 300 * DAY, NOW + 3000 * DAY):
        assert not is_due(received(clock), clock + 59 * DAY)
        assert is_due(received(clock), clock + 68 * DAY)


def test_a_clock_that_was_set_forward_causes_one_renewal_only() -> None:
    assert is_due(received(NOW), NOW + 3000 * DAY)
    assert not is_due(received(NOW + 3000 * DAY, cloud_now=NOW), NOW + 3000 * DAY)


def test_a_clock_that_was_set_back_to_the_right_time_delays_no_renewal() -> None:
    ahead = received(NOW + 300 * DAY, cloud_now=NOW)
    assert not is_due(ahead, NOW + 59 * DAY)
    assert is_due(ahead, NOW + 68 * DAY)


def test_a_certificate_of_unknown_validity_is_due() -> None:
    assert due_in_s(None, "cam-1", NOW) <= 0


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)), st.floats(15, 90 * 86400), st.sampled_from(DEVICES))
def test_a_new_certificate_is_not_due_whatever_the_clock_shows(clock: datetime, lifetime_s: float, device: str) -> None:
    now = clock.replace(tzinfo=UTC)
    fresh = Validity(not_before=NOW, not_after=NOW + timedelta(seconds=lifetime_s), obtained_at=now)
    assert due_in_s(fresh, device, now) >= lifetime_s * 0.6


@pytest.mark.parametrize("module", ["edge_agent.renewal", "edge_agent.agent", "edge_agent.cli"])
def test_the_resident_process_does_not_load_the_cryptography(module: str) -> None:
    code = f"import {module}, sys; print('cryptography' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert output == "False\n"
