"""The RTL itself as a machine: Verilated, compiled into a shared library, driven through ctypes.

Built on first use and kept in the user's cache under a hash of everything that went into it (sources, parameters, tools), so
a changed line of RTL is a new library and an unchanged one costs nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.npu.hardware import CONTROL, REGISTERS, Hardware, Words
from accel.npu.profile import NpuProfile
from edgewright.errors import OperationError

RTL = Path(__file__).parent / "rtl"
BUILD_TIMEOUT_S = 600
CYCLE_LIMIT = 1 << 33
POWER_UP_US = 210
"""An SDRAM wants 200 us before its first command."""
_VERILATOR_OPTIONS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
_COMPILER_OPTIONS = ("-O2", "-std=c++17", "-w")


class LibraryPort:
    """The host port of the Verilated machine, called through ctypes; `external_clock_mhz` is 0 without external memory."""

    def __init__(self, library: Path, external_clock_mhz: float = 0.0) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.npu_open.restype = ctypes.c_void_p
        self._library.npu_violation.restype = ctypes.c_char_p
        self._npu = ctypes.c_void_p(self._library.npu_open(ctypes.c_double(external_clock_mhz)))

    def upload(self, memories: Mapping[int, Words]) -> None:
        """Write each memory from its beginning."""
        for region, words in memories.items():
            self.write(region, 0, words)

    def start(self) -> None:
        """Write the register that starts the core."""
        self.write(REGISTERS, CONTROL, np.array([1], np.uint32))

    def write(self, region: int, address: int, words: Words) -> None:
        """Write one word per clock cycle."""
        self._library.npu_write(self._npu, region, address, words.ctypes.data_as(ctypes.c_void_p), len(words))

    def read(self, region: int, address: int, count: int) -> Words:
        """Read one word per four clock cycles."""
        words = np.zeros(count, np.uint32)
        self._library.npu_read(self._npu, region, address, words.ctypes.data_as(ctypes.c_void_p), count)
        return words

    def wait_until_idle(self) -> None:
        """Run the clock, in C."""
        if not self._library.npu_run_until_idle(self._npu, ctypes.c_uint64(CYCLE_LIMIT)):
            raise OperationError(f"the simulated NPU did not come to rest within {CYCLE_LIMIT} cycles")
        violation = self._library.npu_violation(self._npu).decode()
        if violation:
            raise OperationError(f"the SDRAM's protocol must be kept, but it was broken: {violation}; this is a bug")

    def close(self) -> None:
        """Free the model."""
        self._library.npu_close(self._npu)


class Emulator(Hardware):
    """The RTL as a machine; with `plain`, a paired multiplier is simulated as two (N14, N93), which is several times faster."""

    def __init__(self, profile: NpuProfile, *, plain: bool = False) -> None:
        self._port = LibraryPort(build(profile, plain=plain), profile.clock_mhz if profile.external_memory_mib else 0.0)
        super().__init__(profile, self._port)

    def close(self) -> None:
        """Free the model; the machine cannot be used any more."""
        self._port.close()


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


def rtl_parameters(profile: NpuProfile) -> dict[str, int | str]:
    """Return the parameters of the RTL's top module that make it this profile's machine."""
    return {
        "ROWS": profile.rows,
        "COLUMNS": profile.columns,
        "VECTOR_LANES": profile.vector_lanes,
        "PAIRED": int(profile.paired),
        "MICROSCALING": int(profile.number_format == "mxint8"),
        "INSTRUCTIONS": profile.instructions,
        "WEIGHT_ROWS": profile.weight_rows,
        "ACTIVATION_VECTORS": profile.activation_vectors,
        "ACCUMULATOR_DEPTH": profile.accumulator_depth,
        "PARAMETER_GROUPS": profile.parameter_groups,
        "EXTERNAL": int(profile.external_memory_mib > 0),
        "POWER_UP_CYCLES": math.ceil(POWER_UP_US * profile.clock_mhz),
        "REFRESH_CYCLES": profile.refresh_cycles,
        "PROFILE_HASH": f"64'h{profile.hash[:8][::-1].hex()}",
    }


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


def cache_directory() -> Path:
    """Return where what is built from the RTL is kept."""
    root = os.environ.get("EDGEWRIGHT_CACHE")
    home = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgewright"
    return home / "npu"


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
