"""Notation of shares, durations, labels and sizes on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest

from edgewright.command_line import duration, print_table, share
from edgewright.commands.cloud_options import label, size_text


@pytest.mark.parametrize(
    ("text", "fraction"), [("95%", 0.95), ("0.95", 0.95), ("1%", 0.01), ("0", 0.0), ("1", 1.0), (" 2.5 % ", 0.025)]
)
def test_a_share_is_a_percentage_or_a_fraction(text: str, fraction: float) -> None:
    assert share(text) == pytest.approx(fraction)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        *(
            pytest.param(share, text, f"must be a fraction from 0% to 100%, as in 95% or 0.95, not {text!r}", id=f"share {text}")
            for text in ("", "%", "much", "95", "101%", "-1%", "nan", "inf%")
        ),
        *(
            pytest.param(
                duration, text, f"must be a number and a unit, as in 50ms, 30s, 5m, 1h or 2d, not {text!r}", id=f"time {text}"
            )
            for text in ("", "5", "m", "-5m", "5w", "1e3s")
        ),
        *(
            pytest.param(label, text, f"must be a name and a value, as in site=plant-2, not {text!r}", id=f"label {text}")
            for text in ("", "site", "=east")
        ),
    ],
)
def test_another_notation_is_rejected(read: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(click.BadParameter) as raised:
        read(text)
    assert raised.value.message == message


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (812_300, "812.3 kB"), (5_000_000_000_000, "5.0 TB")]
)
def test_a_size_has_a_decimal_unit(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


def test_a_table_aligns_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "size"), [("a", 5), ("long", None), ("b", 1.25)])
    assert capsys.readouterr().out == "name  size\na        5\nlong     -\nb     1.25\n"
