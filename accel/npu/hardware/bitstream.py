"""Build a bitstream with open tools: synthesise (yosys), place and route (nextpnr-ecp5), pack (ecppack).

A stage is a command with its input files. Its outputs are cached under a hash of command, input files and tool version, so an
interrupted build resumes after its last finished stage, and a changed line of RTL starts from the beginning. Place and route
takes tens of minutes. The next build removes the directories of a killed one.

The tools are found under their own names and under those of Python packages (`pip install 'edgewright[bitstream]'`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from accel.npu.hardware.boards import Board, top_parameters
from accel.npu.hardware.implementation import Implementation, figures, read_report, sources_sha256
from accel.npu.hardware.sources import cache_directory
from accel.npu.profile import NpuProfile
from edgewright.contracts import wire
from edgewright.contracts.files import replace_directory, staging_beside, write_atomically
from edgewright.errors import OperationError, last_line

STAGE_LIMIT_S = 4 * 3600.0
STOP_S = 10.0
POLL_S = 1.0
VERSION_LIMIT_S = 600.0  # the first call of a WebAssembly build compiles it
LOG = "log"
LOCK = "lock"
TOO_SLOW = ".too-slow"
_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")

Watch = Callable[[str, float, str], None]
"""Callback, called about once per second with the name of the stage, its duration in seconds, and the tool's last line."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Command that runs in a directory of its own with the files `inputs`, and writes the files `outputs` there."""

    name: str
    tool: str
    arguments: tuple[str, ...]
    inputs: Mapping[str, bytes]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Parameters of a bitstream."""

    profile: NpuProfile
    board: Board
    baud: int
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Tool:
    """Path and version of a tool."""

    path: str
    version: str


def build_bitstream(request: BuildRequest, folder: Path, watch: Watch = lambda *_: None) -> Implementation:
    """Write `<profile>.bit` and its record `<profile>.json` into `folder`, and return the record.

    Raises:
        OperationError: a tool is missing or fails, and nothing is written; or the design does not reach the profile's clock, and
            both files are written as `<profile>.too-slow.*`, so that they are not mistaken for a usable bitstream.
    """
    tools = {tool: find_tool(tool) for tool in ("yosys", "nextpnr-ecp5", "ecppack")}
    netlist = run_stage(synthesis(request), tools["yosys"], watch)["netlist.json"]
    routed = run_stage(place_and_route(request, netlist), tools["nextpnr-ecp5"], watch)
    bitstream = run_stage(packing(routed["routed.config"]), tools["ecppack"], watch)["npu.bit"]
    record = _record(request, routed["report.json"], bitstream, tools)
    is_too_slow = record.fmax_mhz < request.profile.clock_mhz
    name = f"{request.profile.name}{TOO_SLOW if is_too_slow else ''}"
    write_atomically(folder / f"{name}.bit", bitstream)
    write_atomically(folder / f"{name}.json", wire.encode_readable(record))
    if is_too_slow:
        raise OperationError(
            f"{request.profile.name} must reach {request.profile.clock_mhz:g} MHz, but place and route gave {figures(record)}; "
            f"kept as {folder / name}.bit and .json, do not load it; try another --seed, or a profile with a lower clock_mhz"
        )
    return record


def synthesis(request: BuildRequest) -> Stage:
    """Return the stage that converts the RTL to a netlist of the part's cells.

    `-no-rw-check`: the NPU never depends on the value read from an address that is written in the same cycle (N71, N91). Logic
    that returns the old value would cost a tenth of the part and double the activation memory.
    """
    sources = [source for source in request.board.sources if source != request.board.constraints]
    parameters = " ".join(
        f"-set {name} {value}" for name, value in top_parameters(request.profile, request.board, request.baud).items()
    )
    script = (
        f"read_verilog -sv -I. {' '.join(source.name for source in sources if source.suffix == '.sv')}\n"
        f"chparam {parameters} {request.board.top}\n"
        f"synth_ecp5 -no-rw-check -top {request.board.top} -json netlist.json\n"
    )
    inputs = {"synthesise.ys": script.encode(), **{source.name: source.read_bytes() for source in sources}}
    return Stage("synthesise", "yosys", ("synthesise.ys",), inputs, ("netlist.json",))


def place_and_route(request: BuildRequest, netlist: bytes) -> Stage:
    """Return the stage that places and routes the netlist with the board's pins."""
    board = request.board
    part = (board.part_option, "--package", board.package, "--speed", str(board.speed_grade))
    files = ("--json", "netlist.json", "--lpf", "pins.lpf", "--textcfg", "routed.config", "--report", "report.json")
    # --timing-allow-fail: a design that is too slow is reported with its figures. Static placer: 15% less wire than heap on the
    # colorlight-i9 (254,000 tiles, not 298,000). router1: router2 did not converge there (9,000 overused wires after 10 rounds,
    # and after 15).
    choices = ("--timing-allow-fail", "--placer", "static", "--router", "router1")
    options = ("--seed", str(request.seed), "--freq", f"{request.profile.clock_mhz:g}", *choices)
    inputs = {"netlist.json": netlist, "pins.lpf": board.constraints.read_bytes()}
    return Stage("place and route", "nextpnr-ecp5", (*part, *files, *options), inputs, ("routed.config", "report.json"))


def packing(configuration: bytes) -> Stage:
    """Return the stage that converts the configuration to a bitstream."""
    arguments = ("--compress", "--input", "routed.config", "--bit", "npu.bit")
    return Stage("pack", "ecppack", arguments, {"routed.config": configuration}, ("npu.bit",))


def run_stage(stage: Stage, tool: Tool, watch: Watch) -> dict[str, bytes]:
    """Return the output files of a stage by name, from the cache or by running the stage.

    Raises:
        OperationError: the tool fails.
    """
    cached = cache_directory() / "bitstream" / f"{stage.name.replace(' ', '-')}-{_key(stage, tool)}"
    if not cached.is_dir():
        _remove_abandoned(cached.parent)
        with staging_beside(cached) as staging, _locked(staging) as lock:
            for name, content in stage.inputs.items():
                (staging / name).write_bytes(content)
            _run(_Run(stage, tool, staging, lock), watch, log=cached.with_suffix(".log"))
            for name in (*stage.inputs, LOCK):
                (staging / name).unlink()
            replace_directory(staging, cached)
    return {name: (cached / name).read_bytes() for name in stage.outputs}


def find_tool(name: str) -> Tool:
    """Return path and version of a tool, found under its own name or as a Python package.

    Raises:
        OperationError: the tool is missing or cannot be run.
    """
    scripts = str(Path(sys.executable).parent)
    path = shutil.which(name) or shutil.which(f"yowasp-{name}") or shutil.which(f"yowasp-{name}", path=scripts)
    if path is None:
        raise OperationError(
            f"a bitstream needs {name}, which is not on the PATH; run: pip install 'edgewright[bitstream]' "
            "(or install the OSS CAD Suite)"
        )
    try:
        finished = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=VERSION_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperationError(f"{path} cannot be run: {error}; reinstall it") from error
    version = _VERSION.search(finished.stdout + finished.stderr)
    if finished.returncode or version is None:
        raise OperationError(f"{path} must print its version, but it ended with exit code {finished.returncode}; reinstall it")
    return Tool(path, version[0])


def _key(stage: Stage, tool: Tool) -> str:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in stage.inputs.items()}
    return hashlib.sha256(wire.encode([stage.tool, tool.version, stage.arguments, digests, stage.outputs])).hexdigest()[:24]


def _remove_abandoned(cache: Path) -> None:
    """Remove the directories of killed stages: neither a build nor its tool holds their lock."""
    for lock in cache.glob(f".*/{LOCK}"):
        with contextlib.suppress(OSError), lock.open("rb") as file:  # removed meanwhile, or still locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    """Hold the lock of a directory; a child process that inherits the open file holds it too."""
    with (folder / f"{LOCK}.new").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(folder / LOCK)
        yield file


@dataclass(frozen=True, slots=True)
class _Run:
    """Run of a stage in `folder`."""

    stage: Stage
    tool: Tool
    folder: Path
    lock: IO[bytes]


def _run(run: _Run, watch: Watch, log: Path) -> None:
    """Run the command until it ends, or stop it on an exception; copy its output to `log` if it fails."""
    stage, folder = run.stage, run.folder
    # A WebAssembly build has its own /tmp, so all paths are relative to the directory. A tool that outlives us keeps the lock.
    with (folder / LOG).open("wb") as output:
        command = [run.tool.path, *stage.arguments]
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, pass_fds=(run.lock.fileno(),))
        try:
            _wait(stage, process, folder / LOG, watch)
        finally:
            _stop(process)
    missing = [name for name in stage.outputs if not (folder / name).is_file()]
    if process.returncode or missing:
        shutil.copyfile(folder / LOG, log)
        raise OperationError(f"{stage.tool} failed to {stage.name}: {_first_error(folder / LOG)}; see its log: {log}")


def _wait(stage: Stage, process: subprocess.Popen[bytes], log: Path, watch: Watch) -> None:
    started = time.monotonic()
    while True:
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            took_s = time.monotonic() - started
            watch(stage.name, took_s, _last_line_of(log))
            if took_s > STAGE_LIMIT_S:
                raise OperationError(
                    f"{stage.tool} must {stage.name} within {STAGE_LIMIT_S / 3600:g} hours, but it did not; try another --seed"
                ) from None
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)


def _last_line_of(log: Path) -> str:
    with log.open("rb") as output:
        output.seek(max(0, output.seek(0, os.SEEK_END) - 400))
        return last_line(output.read().decode(errors="replace"))


def _first_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith(("ERROR", "Error")) or ": ERROR" in line]
    return (errors or lines[-1:] or ["no message"])[0].strip()


def _record(request: BuildRequest, report: bytes, bitstream: bytes, tools: Mapping[str, Tool]) -> Implementation:
    fmax, resources = read_report(json.loads(report))
    return Implementation(
        profile=request.profile.name,
        profile_hash=request.profile.hash.hex(),
        sources_sha256=sources_sha256(request.board),
        part=f"{request.profile.part} {request.board.package} speed grade {request.board.speed_grade}",
        baud=request.baud,
        seed=request.seed,
        clock_mhz=request.profile.clock_mhz,
        fmax_mhz=round(fmax, 2),
        resources=resources,
        tools={name: tool.version for name, tool in tools.items()},
        bitstream_sha256=hashlib.sha256(bitstream).hexdigest(),
    )
