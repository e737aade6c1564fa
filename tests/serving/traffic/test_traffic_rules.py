"""Traffic: shares over many requests, and what the command refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgewright.cli import main
from edgewright.serving.traffic.rules import Traffic, Turns

ADDRESSES = {"blue": "127.0.0.1:5001", "green": "127.0.0.1:5002", "red": "127.0.0.1:5003"}


@pytest.mark.parametrize(
    "shares", [{"blue": 90, "green": 10}, {"blue": 33, "green": 33, "red": 34}, {"blue": 99, "green": 1}, {"blue": 100, "red": 0}]
)
def test_any_100_requests_in_sequence_are_split_exactly(shares: dict[str, int]) -> None:
    turns = Turns(Traffic(deployments=ADDRESSES, traffic=shares))
    names = [turns.deployment() for _ in range(10_000)]
    expected = +Counter(shares)
    assert all(Counter(names[first : first + 100]) == expected for first in range(0, 10_000, 100))


def test_a_mirror_gets_its_percentage_of_copies() -> None:
    turns = Turns(Traffic(deployments=ADDRESSES, traffic={"blue": 100}, mirror={"green": 15}))
    assert Counter(turns.mirror() for _ in range(1000)) == {"green": 150, None: 850}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with 90 percent blue, 10 percent green, and red without traffic."""
    path = tmp_path / "traffic.json"
    options = [f"--deployment={name}={address}" for name, address in ADDRESSES.items()]
    created = CliRunner().invoke(main, ["endpoints", "traffic", str(path), *options, "--traffic", "blue=90 green=10"])
    assert created.exit_code == 0, created.output
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--traffic", "blue=90 green=20"],
            "the traffic of all deployments must sum to 100 percent, not 110 (blue=90 green=20)",
            id="sum",
        ),
        pytest.param(
            ["--traffic", "blue=90 gren=10"],
            "no deployment is called 'gren'; deployments of this endpoint: blue, green, red",
            id="unknown",
        ),
        pytest.param(
            ["--remove", "green"],
            "deployment green must have no traffic to be removed, not 10 percent: move it first",
            id="remove",
        ),
        pytest.param(
            ["--mirror-traffic", "green=5"],
            "green must get traffic or copies, not both: set its traffic to 0, or end its mirror",
            id="mirror with traffic",
        ),
        pytest.param(
            ["--traffic", "blue:90"],
            "traffic must be NAME=PERCENT once for each deployment, as in \"blue=90 green=10\", not 'blue:90'",
            id="notation",
        ),
        pytest.param(
            ["--deployment", "red=nowhere"],
            "the address of deployment red must be HOST:PORT, as in 127.0.0.1:5001, not 'nowhere'",
            id="address",
        ),
    ],
)
def test_a_bad_change_is_refused_in_one_line_and_changes_nothing(file: Path, options: list[str], message: str) -> None:
    before = file.read_bytes()
    result = CliRunner().invoke(main, ["endpoints", "traffic", str(file), *options])
    assert (result.exit_code, result.stderr.strip()) == (2, f"edgewright: {message}")
    assert file.read_bytes() == before


def test_a_deployment_without_traffic_is_removed(file: Path) -> None:
    result = CliRunner().invoke(main, ["endpoints", "traffic", str(file), "--traffic", "blue=0 green=100", "--remove", "blue"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        "green       127.0.0.1:5002  100 %    0 %",
        "red         127.0.0.1:5003  0 %      0 %",
    ]


def test_a_router_without_its_file_is_refused_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["endpoints", "route", str(tmp_path / "none.json"), "--port", "0"])
    reason = (
        f"{tmp_path}/none.json must be a file of 'edgewright endpoints traffic', but it cannot be read: No such file or directory"
    )
    assert (result.exit_code, result.stderr.strip()) == (2, f"edgewright: {reason}")
