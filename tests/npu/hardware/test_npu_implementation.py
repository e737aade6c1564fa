"""Records of place and route: their figures are part of the status, and stale as soon as a source changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from accel.npu.hardware import boards, implementation
from accel.npu.hardware.boards import BOARDS
from accel.npu.hardware.implementation import Implementation, ResourceUse, read_record, read_report, sources_sha256, status
from accel.npu.hardware.sources import RTL
from accel.npu.profile import find_profile
from edgewright.cli import main
from edgewright.contracts import wire
from edgewright.errors import OperationError

PROFILE = find_profile("colorlight-i9")
BOARD = BOARDS["colorlight-i9"]
FRESH = Implementation(
    profile=PROFILE.name,
    profile_hash=PROFILE.hash.hex(),
    sources_sha256=sources_sha256(BOARD),
    part="LFE5U-45F CABGA381 speed grade 6",
    baud=3_000_000,
    seed=1,
    clock_mhz=60.0,
    fmax_mhz=61.25,
    resources={"multipliers": ResourceUse(70, 72), "block_rams": ResourceUse(107, 108)},
    tools={"yosys": "0.70"},
    bitstream_sha256="00" * 32,
)
STATUS = "simulated; placed and routed: 61.2 MHz, 70 of 72 multipliers, 107 of 108 block rams"


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory in place of the committed records."""
    monkeypatch.setattr(implementation, "RECORDS", tmp_path)
    return tmp_path


def write(folder: Path, record: Implementation) -> None:
    (folder / f"{record.profile}.json").write_bytes(wire.encode_readable(record))


def test_a_record_of_the_current_sources_is_part_of_the_profiles_status(records: Path) -> None:
    write(records, FRESH)
    assert status(PROFILE) == STATUS


def test_without_a_record_the_status_is_the_profiles_own(records: Path) -> None:
    assert status(PROFILE) == "simulated"


def test_a_record_of_another_profile_hash_is_stale(records: Path) -> None:
    write(records, FRESH)
    assert status(replace(PROFILE, weight_rows=4096)) == f"{STATUS} (stale: built from other sources)"


def test_a_changed_line_of_rtl_makes_a_record_stale(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(records, FRESH)
    changed = shutil.copytree(RTL, records / "rtl")
    with (changed / "npu_dot.sv").open("a", encoding="utf-8") as source:
        source.write("wire changed;\n")
    monkeypatch.setattr(boards, "RTL", changed)
    assert status(PROFILE) == f"{STATUS} (stale: built from other sources)"


def test_a_changed_comment_of_rtl_keeps_a_record_valid(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(records, FRESH)
    changed = shutil.copytree(RTL, records / "rtl")
    with (changed / "npu_dot.sv").open("a", encoding="utf-8") as source:
        source.write("\n// changed\n")
    monkeypatch.setattr(boards, "RTL", changed)
    assert status(PROFILE) == STATUS


def test_changed_pins_make_a_record_stale(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(records, FRESH)
    changed = shutil.copytree(boards.CONSTRAINTS, records / "constraints")
    (changed / "colorlight-i9.lpf").write_text("other pins", encoding="utf-8")
    monkeypatch.setattr(boards, "CONSTRAINTS", changed)
    assert status(PROFILE).endswith("(stale: built from other sources)")


def test_the_sources_of_a_board_leave_out_the_top_modules_of_others() -> None:
    names = [source.name for source in BOARD.sources]
    assert "npu_colorlight_i9.sv" in names
    assert "npu_ulx3s.sv" not in names


def test_the_profiles_command_shows_the_figures_of_place_and_route(records: Path) -> None:
    write(records, FRESH)
    result = CliRunner().invoke(main, ["npu", "profiles", "--json"])
    (shown,) = [profile["status"] for profile in json.loads(result.stdout) if profile["name"] == "colorlight-i9"]
    assert shown == STATUS
    assert STATUS in CliRunner().invoke(main, ["npu", "profiles"]).stdout


def test_the_error_of_a_damaged_record_names_the_file(records: Path) -> None:
    (records / "colorlight-i9.json").write_text("{", encoding="utf-8")
    with pytest.raises(OperationError, match=r"^colorlight-i9\.json cannot be read: "):
        read_record("colorlight-i9")


def test_committed_records_are_of_shipped_boards_that_reached_their_clock_within_their_part() -> None:
    names = {path.stem for path in implementation.RECORDS.glob("*.json")}
    records = [record for name in BOARDS if (record := read_record(name)) is not None]
    assert {record.profile for record in records} == names
    assert all(record.fmax_mhz >= record.clock_mhz for record in records)
    assert all(use.used <= use.available for record in records for use in record.resources.values())


def test_a_report_without_clocks_is_refused() -> None:
    with pytest.raises(OperationError, match=r"^nextpnr-ecp5's report must have fmax and utilization, but it lacks 'fmax'$"):
        read_report({"utilization": {}})
