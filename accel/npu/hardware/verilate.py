"""Build what runs the RTL on this machine: Verilator makes C++ of it, a compiler makes a library or a program of that.

Built on first use and kept in the user's cache under a hash of everything that went into it (sources, parameters, tools), so
a changed line of RTL is a new library and an unchanged one costs nothing. Verilator's own runtime, the same for all of them, is
compiled once for itself.
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

BUILD_TIMEOUT_S = 600
_VERILATOR_OPTIONS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
_COMPILER_OPTIONS = ("-O2", "-std=c++17", "-w", "-fPIC")
_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")


@dataclass(frozen=True, slots=True)
class _Target:
    """What is built from the RTL: its top module, the C++ around it, and the linker's options for it."""

    top: str
    harness: str
    options: tuple[str, ...]
    suffix: str


_LIBRARY = _Target("npu_system", "harness.cpp", ("-shared",), ".so")
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
    code = [RTL / target.harness, *sorted(scratch.glob(f"V{target.top}*.cpp"))]
    headers = [f"-I{scratch}", f"-I{RTL}", *runtime_headers()]
    objects = [*_compile_all(code, scratch, headers), *runtime_objects()]
    built = scratch / "built"
    _call([compiler, *target.options, "-o", str(built), *map(str, objects), "-lpthread"])
    return built


def runtime_headers() -> list[str]:
    """Return the compiler's options that find the headers of Verilator's runtime."""
    return [f"-I{_runtime()}", f"-I{_runtime() / 'vltstd'}"]


def runtime_objects() -> list[Path]:
    """Return Verilator's runtime as object files, compiled now unless the cache has them."""
    key = hashlib.sha256(repr(([_call([tool, "--version"]) for tool in _tools()], _COMPILER_OPTIONS)).encode()).hexdigest()
    kept = [cache_directory() / f"{Path(name).stem}-{key[:24]}.o" for name in _RUNTIME]
    if not all(path.is_file() for path in kept):
        cache_directory().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
            made = _compile_all([_runtime() / name for name in _RUNTIME], Path(scratch), runtime_headers())
            for compiled, path in zip(made, kept, strict=True):
                compiled.replace(path)
    return kept


def _runtime() -> Path:
    return Path(_call([_tools()[0], "--getenv", "VERILATOR_ROOT"]).strip()) / "include"


def _compile_all(code: Sequence[Path], folder: Path, headers: Sequence[str]) -> list[Path]:
    """Compile each file to an object in `folder`, as many at a time as there are processors."""
    objects = [folder / f"{source.stem}.o" for source in code]
    commands = [
        [_tools()[1], *_COMPILER_OPTIONS, *headers, "-c", "-o", str(made), str(source)]
        for source, made in zip(code, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_call, commands))
    return objects


def _call(command: Sequence[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise OperationError(f"{Path(command[0]).name} took over {BUILD_TIMEOUT_S} s to build the RTL simulation") from late
    if finished.returncode:
        first = next((line for line in (finished.stderr or finished.stdout).splitlines() if "rror" in line), "no message")
        raise OperationError(f"{Path(command[0]).name} failed to build the RTL simulation: {first}")
    return finished.stdout
