"""Build a simulation of the RTL: Verilator converts it to C++, a compiler makes a shared library or a program of that.

Builds are made on first use and cached under a hash of all their inputs (sources, parameters, tools), so only a changed input
causes a new build. Verilator's runtime, which all builds share, is compiled once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from accel.npu.hardware.sources import RTL, cache_directory, rtl_parameters
from accel.npu.profile import NpuProfile
from edgewright.errors import OperationError
from hardware_profiles.processors import usable_processors

BUILD_TIMEOUT_S = 600
_VERILATOR_OPTIONS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
_COMPILER_OPTIONS = ("-O2", "-std=c++17", "-w", "-fPIC")
_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")


@dataclass(frozen=True, slots=True)
class _Target:
    """Kind of build: the top module of the RTL, the C++ around it, and the linker's options."""

    top: str
    harness: str
    options: tuple[str, ...]
    suffix: str


LIBRARY = _Target("npu_system", "harness.cpp", ("-shared",), ".so")
_BOARD = _Target("npu_board", "pty_board.cpp", (), "")


def build(profile: NpuProfile, *, plain: bool = False) -> Path:
    """Return the shared library for `profile`, building it unless the cache has it.

    Args:
        profile: the NPU.
        plain: simulate a paired multiplier as two multipliers.

    Raises:
        OperationError: a tool is missing or fails.
    """
    parameters = rtl_parameters(profile)
    return _build(LIBRARY, {**parameters, "PAIRED": 0} if plain else parameters)


def build_board(profile: NpuProfile, cycles_per_bit: int) -> Path:
    """Return the program that simulates a board on a pseudo-terminal, building it unless the cache has it.

    Raises:
        OperationError: a tool is missing or fails.
    """
    return _build(_BOARD, {**rtl_parameters(profile), "CYCLES_PER_BIT": cycles_per_bit})


def _build(target: _Target, parameters: Mapping[str, int | str]) -> Path:
    built = cached_path(target, parameters)
    if not built.is_file():
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as scratch:
            _compile(target, parameters, Path(scratch)).replace(built)
    return built


def cached_path(target: _Target, parameters: Mapping[str, int | str]) -> Path:
    """Return the path in the cache of a build with these parameters, whether or not it exists."""
    key = hashlib.sha256()
    for source in (*sorted(RTL.glob("*.sv*")), *sorted(RTL.glob("*.h")), RTL / target.harness):
        key.update(source.name.encode() + source.read_bytes())
    versions = [_call([tool, "--version"]) for tool in _tools()]
    key.update(repr((sorted(parameters.items()), versions, target, _VERILATOR_OPTIONS, _COMPILER_OPTIONS)).encode())
    return cache_directory() / f"{target.top}-{key.hexdigest()[:24]}{target.suffix}"


def missing_tool() -> str | None:
    """Return the first tool of the RTL simulation that is missing on this machine, or None if all are installed."""
    return next((name for name in ("verilator", os.environ.get("CXX", "g++")) if shutil.which(name) is None), None)


def _tools() -> tuple[str, str]:
    return _tool("verilator", "verilator"), _tool(os.environ.get("CXX", "g++"), "g++")


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise OperationError(
            f"the RTL simulation needs {name}, which is not on the PATH; on Debian: apt-get install {package}. "
            "The functional model runs without it."
        )
    return path


def _compile(target: _Target, parameters: Mapping[str, int | str], scratch: Path) -> Path:
    verilator, compiler = _tools()
    sources = [str(source) for source in sorted(RTL.glob("*.sv"))]
    settings = [f"-G{name}={value}" for name, value in parameters.items()]
    _call([verilator, *_VERILATOR_OPTIONS, "--top-module", target.top, f"-I{RTL}", *settings, "--Mdir", str(scratch), *sources])
    code = [RTL / target.harness, *sorted(scratch.glob(f"V{target.top}*.cpp"))]
    headers = [f"-I{scratch}", f"-I{RTL}", *runtime_headers()]
    objects = [*_compile_all(code, scratch, headers), *runtime_objects()]
    built = scratch / "built"
    _call([compiler, *target.options, "-o", str(built), *map(str, objects), "-lpthread"])
    return built


def runtime_headers() -> list[str]:
    """Return the compiler options for the headers of Verilator's runtime."""
    return [f"-I{_runtime()}", f"-I{_runtime() / 'vltstd'}"]


def runtime_objects() -> list[Path]:
    """Return the object files of Verilator's runtime, compiling them unless the cache has them."""
    key = hashlib.sha256(repr(([_call([tool, "--version"]) for tool in _tools()], _COMPILER_OPTIONS)).encode()).hexdigest()
    objects = [cache_directory() / f"{Path(name).stem}-{key[:24]}.o" for name in _RUNTIME]
    if not all(path.is_file() for path in objects):
        cache_directory().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
            compiled = _compile_all([_runtime() / name for name in _RUNTIME], Path(scratch), runtime_headers())
            for source, path in zip(compiled, objects, strict=True):
                source.replace(path)
    return objects


def _runtime() -> Path:
    return Path(_call([_tools()[0], "--getenv", "VERILATOR_ROOT"]).strip()) / "include"


def _compile_all(code: Sequence[Path], folder: Path, headers: Sequence[str]) -> list[Path]:
    """Compile each file to an object in `folder`, with one compiler per processor."""
    objects = [folder / f"{source.stem}.o" for source in code]
    commands = [
        [_tools()[1], *_COMPILER_OPTIONS, *headers, "-c", "-o", str(output), str(source)]
        for source, output in zip(code, objects, strict=True)
    ]
    with ThreadPoolExecutor(usable_processors()) as pool:
        list(pool.map(_call, commands))
    return objects


def _call(command: Sequence[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise OperationError(
            f"{Path(command[0]).name} must build the RTL simulation within {BUILD_TIMEOUT_S} s, but it did not; try again"
        ) from error
    if finished.returncode:
        first = next((line for line in (finished.stderr or finished.stdout).splitlines() if "rror" in line), "no message")
        raise OperationError(f"{Path(command[0]).name} failed to build the RTL simulation: {first}")
    return finished.stdout
