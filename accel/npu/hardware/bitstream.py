"""Build a bitstream with open tools: synthesise (yosys), place and route (nextpnr-ecp5), pack (ecppack).

A stage is a command with its input files; what it makes is kept in the cache under a hash of all that and of the tool's version.
So a stage that was done is never done twice, a build that was interrupted goes on behind its last finished stage, and a changed
line of RTL starts from the beginning. Place and route takes tens of minutes. What a killed build left behind is removed by the
next one.

The tools are looked for under their own names and as the Python packages that carry them (`pip install 'edgewright[bitstream]'`).
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
LOOK_S = 1.0
VERSION_LIMIT_S = 600.0  # the first call of a WebAssembly build compiles it
LOG = "log"
LOCK = "lock"
TOO_SLOW = ".too-slow"
_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")

Watch = Callable[[str, float, str], None]
"""Called about once per second with a stage, its seconds so far, and the last line that its tool wrote."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command: it runs in a folder of its own that holds `inputs`, and leaves `outputs` there."""

    name: str
    tool: str
    arguments: tuple[str, ...]
    inputs: Mapping[str, bytes]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built."""

    profile: NpuProfile
    board: Board
    baud: int
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that was found, and what it calls itself."""

    path: str
    version: str


def build_bitstream(order: Order, folder: Path, watch: Watch = lambda *_: None) -> Implementation:
    """Write `<profile>.bit` and its record `<profile>.json` into `folder`, and return the record.

    Raises:
        OperationError: a tool is missing or fails, and nothing is written; or the design does not reach the profile's clock, and
            both files are kept as `<profile>.too-slow.*`, which no command takes for a bitstream that is good.
    """
    tools = {tool: find_tool(tool) for tool in ("yosys", "nextpnr-ecp5", "ecppack")}
    netlist = run_stage(synthesis(order), tools["yosys"], watch)["netlist.json"]
    routed = run_stage(place_and_route(order, netlist), tools["nextpnr-ecp5"], watch)
    bitstream = run_stage(packing(routed["routed.config"]), tools["ecppack"], watch)["npu.bit"]
    record = _record(order, routed["report.json"], bitstream, tools)
    is_too_slow = record.fmax_mhz < order.profile.clock_mhz
    name = f"{order.profile.name}{TOO_SLOW if is_too_slow else ''}"
    write_atomically(folder / f"{name}.bit", bitstream)
    write_atomically(folder / f"{name}.json", wire.encode_readable(record))
    if is_too_slow:
        raise OperationError(
            f"{order.profile.name} must reach {order.profile.clock_mhz:g} MHz, but place and route gave {figures(record)}; "
            f"kept as {folder / name}.bit and .json, not to be loaded; try another --seed, or a profile with a lower clock_mhz"
        )
    return record


def synthesis(order: Order) -> Stage:
    """Turn the RTL into a netlist of the part's cells.

    `-no-rw-check`: nothing depends on what a memory gives that is read and written at one address in one cycle (N71, N91), and
    the logic that would make it give the old value costs a tenth of the part and doubles the activation memory.
    """
    sources = [source for source in order.board.sources if source != order.board.constraints]
    parameters = " ".join(
        f"-set {name} {value}" for name, value in top_parameters(order.profile, order.board, order.baud).items()
    )
    script = (
        f"read_verilog -sv -I. {' '.join(source.name for source in sources if source.suffix == '.sv')}\n"
        f"chparam {parameters} {order.board.top}\n"
        f"synth_ecp5 -no-rw-check -top {order.board.top} -json netlist.json\n"
    )
    inputs = {"synthesise.ys": script.encode(), **{source.name: source.read_bytes() for source in sources}}
    return Stage("synthesise", "yosys", ("synthesise.ys",), inputs, ("netlist.json",))


def place_and_route(order: Order, netlist: bytes) -> Stage:
    """Give every cell a place and every net a way, with the board's pins."""
    board = order.board
    part = (board.part_option, "--package", board.package, "--speed", str(board.speed_grade))
    files = ("--json", "netlist.json", "--lpf", "pins.lpf", "--textcfg", "routed.config", "--report", "report.json")
    # A design that is too slow is reported with its figures, instead of failing without them. The static placer, because it left
    # 15 % less wire to route on the colorlight-i9 than heap (254,000 tiles, not 298,000). router1, because router2 found no end
    # there: 9,000 wires were used twice after 10 rounds, and after 15.
    choices = ("--timing-allow-fail", "--placer", "static", "--router", "router1")
    options = ("--seed", str(order.seed), "--freq", f"{order.profile.clock_mhz:g}", *choices)
    inputs = {"netlist.json": netlist, "pins.lpf": board.constraints.read_bytes()}
    return Stage("place and route", "nextpnr-ecp5", (*part, *files, *options), inputs, ("routed.config", "report.json"))


def packing(configuration: bytes) -> Stage:
    """Turn the configuration into what the part loads."""
    arguments = ("--compress", "--input", "routed.config", "--bit", "npu.bit")
    return Stage("pack", "ecppack", arguments, {"routed.config": configuration}, ("npu.bit",))


def run_stage(stage: Stage, tool: Tool, watch: Watch) -> dict[str, bytes]:
    """Return what the stage makes, from the cache or by running it now."""
    kept = cache_directory() / "bitstream" / f"{stage.name.replace(' ', '-')}-{_key(stage, tool)}"
    if not kept.is_dir():
        _remove_left_behind(kept.parent)
        with staging_beside(kept) as staging, _locked(staging) as lock:
            for name, content in stage.inputs.items():
                (staging / name).write_bytes(content)
            _run(_Run(stage, tool, staging, lock), watch, log=kept.with_suffix(".log"))
            for name in (*stage.inputs, LOCK):
                (staging / name).unlink()
            replace_directory(staging, kept)
    return {name: (kept / name).read_bytes() for name in stage.outputs}


def find_tool(name: str) -> Tool:
    """Find a tool under its own name or as a Python package, and ask for its version."""
    beside = str(Path(sys.executable).parent)
    path = shutil.which(name) or shutil.which(f"yowasp-{name}") or shutil.which(f"yowasp-{name}", path=beside)
    if path is None:
        raise OperationError(
            f"a bitstream needs {name}, which is not on the PATH; run: pip install 'edgewright[bitstream]' "
            "(or install the OSS CAD Suite)"
        )
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=VERSION_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as wrong:
        raise OperationError(f"{path} must tell its version, but it cannot be run: {wrong}; install it again") from wrong
    version = _VERSION.search(said.stdout + said.stderr)
    if said.returncode or version is None:
        raise OperationError(f"{path} must tell its version, but it ended with {said.returncode}; install it again")
    return Tool(path, version[0])


def _key(stage: Stage, tool: Tool) -> str:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in stage.inputs.items()}
    return hashlib.sha256(wire.encode([stage.tool, tool.version, stage.arguments, digests, stage.outputs])).hexdigest()[:24]


def _remove_left_behind(cache: Path) -> None:
    """Remove the folders of stages that were killed: nobody holds their lock any more, neither the build nor its tool."""
    for lock in cache.glob(f".*/{LOCK}"):
        with contextlib.suppress(OSError), lock.open("rb") as held:  # gone meanwhile, or still in use
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    """Hold the folder's lock; whoever inherits the open file holds it too."""
    with (folder / f"{LOCK}.new").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        Path(held.name).rename(folder / LOCK)
        yield held


@dataclass(frozen=True, slots=True)
class _Run:
    """A stage that is about to run in `folder`."""

    stage: Stage
    tool: Tool
    folder: Path
    lock: IO[bytes]


def _run(run: _Run, watch: Watch, log: Path) -> None:
    """Run the command until it ends; keep its log when it fails, and stop it when we are stopped."""
    stage, folder = run.stage, run.folder
    # A WebAssembly build sees its own /tmp, so every path is relative to the folder. A tool that outlives us keeps the lock.
    with (folder / LOG).open("wb") as said:
        command = [run.tool.path, *stage.arguments]
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT, pass_fds=(run.lock.fileno(),))
        try:
            _wait(stage, process, folder / LOG, watch)
        finally:
            _stop(process)
    missing = [name for name in stage.outputs if not (folder / name).is_file()]
    if process.returncode or missing:
        shutil.copyfile(folder / LOG, log)
        raise OperationError(f"{stage.tool} failed to {stage.name}: {_first_error(folder / LOG)}; its whole log: {log}")


def _wait(stage: Stage, process: subprocess.Popen[bytes], log: Path, watch: Watch) -> None:
    started = time.monotonic()
    while True:
        try:
            process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            took = time.monotonic() - started
            watch(stage.name, took, _last_line_of(log))
            if took > STAGE_LIMIT_S:
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
    with log.open("rb") as said:
        said.seek(max(0, said.seek(0, os.SEEK_END) - 400))
        return last_line(said.read().decode(errors="replace"))


def _first_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    wrong = [line for line in lines if line.startswith(("ERROR", "Error")) or ": ERROR" in line]
    return (wrong or lines[-1:] or ["no message"])[0].strip()


def _record(order: Order, report: bytes, bitstream: bytes, tools: Mapping[str, Tool]) -> Implementation:
    fmax, resources = read_report(json.loads(report))
    return Implementation(
        profile=order.profile.name,
        profile_hash=order.profile.hash.hex(),
        sources_sha256=sources_sha256(order.board),
        part=f"{order.profile.part} {order.board.package} speed grade {order.board.speed_grade}",
        baud=order.baud,
        seed=order.seed,
        clock_mhz=order.profile.clock_mhz,
        fmax_mhz=round(fmax, 2),
        resources=resources,
        tools={name: tool.version for name, tool in tools.items()},
        bitstream_sha256=hashlib.sha256(bitstream).hexdigest(),
    )
