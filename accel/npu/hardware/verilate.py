"""Build what runs the RTL on this machine: Verilator makes C++ of it, a compiler makes a library or a program of that.

Built on first use and kept in the user's cache under a hash of everything that went into it (sources, parameters, tools), so
a changed line of RTL is a new library and an unchanged one costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.npu.hardware.sources import RTL, cache_directory, rtl_parameters
from accel.npu.profile import NpuProfile
from edgewright.errors import OperationError

BUILD_TIMEOUT_S = 600
_VERILATOR_OPTIONS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
_COMPILER_OPTIONS = ("-O2", "-std=c++17", "-w")


@dataclass(frozen=True, slots=True)
class _Target:
    """What is built from the RTL: its top module, the C++ around it, and the compiler's options for it."""

    top: str
    harness: str
    options: tuple[str, ...]
    suffix: str


_LIBRARY = _Target("npu_system", "harness.cpp", ("-fPIC", "-shared"), ".so")
_BOARD = _Target("npu_board", "pty_board.cpp", (), "")


def build(profile: NpuProfile, *, plain: bool = False) -> Path:
    """Return the shared library for `profile`, made now unless the cache has it."""
    parameters = rtl_parameters(profile)
    return _build(_LIBRARY, {**parameters, "PAIRED": 0} if plain else parameters)


def build_board(profile: NpuProfile, cycles_per_bit: int) -> Path:
    """Return the program that is a board on a pseudo-terminal, made now unless the cache has it."""
    return _build(_BOARD, {**rtl_parameters(profile), "CYCLES_PER_BIT": cycles_per_bit})


def library_path(profile: NpuProfile) -> Path:
    """Return where the cache keeps the library of this machine, whether it is there or not."""
    return _cached(_LIBRARY, rtl_parameters(profile))


def _build(target: _Target, parameters: Mapping[str, int | str]) -> Path:
    built = _cached(target, parameters)
    if not built.is_file():
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as scratch:
            _compile(target, parameters, Path(scratch)).replace(built)
    return built


def _cached(target: _Target, parameters: Mapping[str, int | str]) -> Path:
    key = hashlib.sha256()
    for source in (*sorted(RTL.glob("*.sv*")), *sorted(RTL.glob("*.h")), RTL / target.harness):
        key.update(source.name.encode() + source.read_bytes())
    versions = [_call([tool, "--version"]) for tool in _tools()]
    key.update(repr((sorted(parameters.items()), versions, target, _VERILATOR_OPTIONS, _COMPILER_OPTIONS)).encode())
    return cache_directory() / f"{target.top}-{key.hexdigest()[:24]}{target.suffix}"


def missing_tool() -> str | None:
    """Return the first tool that the RTL simulation lacks on this machine, or None when it can be built."""
    return next((name for name in ("verilator", os.environ.get("CXX", "g++")) if shutil.which(name) is None), None)


def _tools() -> tuple[str, str]:
    return _tool("verilator", "verilator"), _tool(os.environ.get("CXX", "g++"), "g++")


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise OperationError(
            f"the RTL simulation needs {name}, which is not on the PATH; on Debian: apt-get install {package}. "
            "The functional model needs neither."
        )
    return found


def _compile(target: _Target, parameters: Mapping[str, int | str], scratch: Path) -> Path:
    verilator, compiler = _tools()
    sources = [str(source) for source in sorted(RTL.glob("*.sv"))]
    settings = [f"-G{name}={value}" for name, value in parameters.items()]
    _call([verilator, *_VERILATOR_OPTIONS, "--top-module", target.top, f"-I{RTL}", *settings, "--Mdir", str(scratch), *sources])
    include = Path(_call([verilator, "--getenv", "VERILATOR_ROOT"]).strip()) / "include"
    generated = [str(path) for path in sorted(scratch.glob(f"V{target.top}*.cpp"))]
    runtime = [str(include / name) for name in ("verilated.cpp", "verilated_threads.cpp")]
    built = scratch / "built"
    headers = [f"-I{scratch}", f"-I{RTL}", f"-I{include}", f"-I{include / 'vltstd'}"]
    code = [str(RTL / target.harness), *generated, *runtime]
    _call([compiler, *_COMPILER_OPTIONS, *target.options, *headers, "-o", str(built), *code, "-lpthread"])
    return built


def _call(command: Sequence[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise OperationError(f"{Path(command[0]).name} took over {BUILD_TIMEOUT_S} s to build the RTL simulation") from late
    if finished.returncode:
        first = next((line for line in (finished.stderr or finished.stdout).splitlines() if "rror" in line), "no message")
        raise OperationError(f"{Path(command[0]).name} failed to build the RTL simulation: {first}")
    return finished.stdout
