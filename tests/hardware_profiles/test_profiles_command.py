"""`edgewright profiles`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgewright.cli import main
from tests.hardware_profiles.test_catalog import GOOD


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["profiles", *arguments])


def test_the_list_is_golden(golden: Callable[[str, str], None]) -> None:
    golden("profiles_list.txt", run("list").output)


def test_one_profile_is_golden(golden: Callable[[str, str], None]) -> None:
    golden("profiles_show_raspberry_pi_5.txt", run("show", "raspberry-pi-5").output)


def test_an_npu_is_shown_with_its_hash() -> None:
    shown = run("show", "colorlight-i9").output
    assert "npu.rows                         16\n" in shown
    assert "npu.hash " in shown


def test_a_profile_as_json() -> None:
    shown = json.loads(run("show", "raspberry-pi-5", "--json").output)
    assert (shown["precisions"][0], shown["architecture"], shown["npu_hash"]) == ("int8", "arm64", None)


def test_an_unknown_profile_is_one_line_and_exit_code_2() -> None:
    result = run("show", "raspbery-pi-4")
    assert result.exit_code == 2
    assert result.stderr.startswith("edgewright: no hardware profile is called 'raspbery-pi-4'; known: raspberry-pi-4")
    assert result.stderr.count("\n") == 1


def test_this_machine_is_described() -> None:
    detected = json.loads(run("detect", "--json").output)
    assert detected["machine"]["cpu_cores"] >= 1
    assert len(detected["sentences"]) == 5


def test_this_machine_is_described_to_people() -> None:
    assert run("detect").output.startswith("machine: ")


def test_every_file_is_checked_and_each_invalid_one_is_named(tmp_path: Path) -> None:
    good, invalid, missing = tmp_path / "good.toml", tmp_path / "invalid.toml", tmp_path / "missing.toml"
    good.write_text(GOOD)
    invalid.write_text(GOOD.replace("512", "-5"))
    result = run("check", str(good), str(invalid), str(missing))
    assert result.exit_code == 2
    assert result.stdout == f"{good}: profile my-board is valid\n"
    assert result.stderr.splitlines() == [
        f"edgewright: {invalid}: memory_mib must be positive, not -5",
        f"edgewright: {missing}: the profile cannot be read: No such file or directory",
    ]


def test_valid_files_give_exit_code_0(tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text(GOOD)
    result = run("check", str(good), "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == [{"file": str(good), "profile": "my-board", "error": None}]


@pytest.mark.parametrize("command", ["list", "show", "detect", "check"])
def test_every_command_has_help(command: str) -> None:
    assert run(command, "--help").exit_code == 0
