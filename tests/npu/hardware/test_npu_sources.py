"""The RTL stays in the subset that Verilator, Icarus and yosys support; code that runs on a device never imports onnx."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from accel.npu.hardware.sources import RTL, rtl_parameters
from accel.npu.hardware.verilate import LIBRARY, build, cached_path, runtime_headers, runtime_objects
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.profile import find_profile
from edgewright.errors import OperationError

SOURCES = [str(path) for path in sorted(RTL.glob("*.sv"))]
PROFILES = ("npu-sim-4", "npu-sim-8-paired", "npu-sim-8-mx", "npu-sim-8-sdram", "colorlight-i9", "ulx3s-85f")
EXHAUSTIVE = """
#include "Vnpu_mul_pair.h"
#include "verilated.h"
extern "C" long count_errors() {
  VerilatedContext context;
  Vnpu_mul_pair pair{&context};
  long errors = 0;
  auto tick = [&] { pair.clk = 0; pair.eval(); pair.clk = 1; pair.eval(); };
  for (int a = -127; a <= 127; a++)
    for (int b = -128; b <= 127; b++) {
      pair.wa = a; pair.wb = b;
      tick();  // the weights come one tick ahead
      for (int x = -128; x <= 128; x++) {  // one more, because a product comes out one tick late
        pair.x = x;
        tick();
        if (x > -128) {
          int previous = x - 1;
          errors += (int16_t)pair.pa != a * previous || (int16_t)pair.pb != b * previous;
        }
      }
    }
  return errors;
}
"""


@pytest.mark.parametrize("top", ["npu_system", "npu_board"])
@pytest.mark.parametrize("profile_name", PROFILES)
def test_verilator_reports_no_warning_about_the_rtl(profile_name: str, top: str, require: Callable[[str], Path]) -> None:
    settings = [f"-G{name}={value}" for name, value in rtl_parameters(find_profile(profile_name)).items()]
    call([str(require("verilator")), "--lint-only", "-Wall", "--top-module", top, f"-I{RTL}", *settings, *SOURCES])


def test_icarus_compiles_the_rtl_without_a_warning(require: Callable[[str], Path], tmp_path: Path) -> None:
    output = call([str(require("iverilog")), "-g2012", f"-I{RTL}", "-s", "npu_board", "-o", str(tmp_path / "board"), *SOURCES])
    assert output == ""


def test_n14_the_paired_multiplier_is_exact_for_every_input(require: Callable[[str], Path], tmp_path: Path) -> None:
    verilator = str(require("verilator"))
    harness = tmp_path / "exhaustive.cpp"
    harness.write_text(EXHAUSTIVE, encoding="utf-8")
    call([verilator, "--cc", "-O3", "--Mdir", str(tmp_path), "--top-module", "npu_mul_pair", str(RTL / "npu_mul_pair.sv")])
    code = [str(harness), *map(str, sorted(tmp_path.glob("V*.cpp"))), *map(str, runtime_objects())]
    headers = [f"-I{tmp_path}", *runtime_headers()]
    library = tmp_path / "exhaustive.so"
    call(["g++", "-O2", "-fPIC", "-shared", "-std=c++17", "-w", *headers, "-o", str(library), *code, "-lpthread"])
    count_errors = ctypes.CDLL(str(library)).count_errors
    count_errors.restype = ctypes.c_long
    assert count_errors() == 0


def test_the_error_without_verilator_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        OperationError, match=r"^the RTL simulation needs verilator, which is not on the PATH; .*apt-get install verilator"
    ):
        RtlSimulator(find_profile("npu-sim-4"))


def test_a_library_is_built_once_per_npu_whatever_its_name(require: Callable[[str], Path]) -> None:
    require("verilator")
    profile = find_profile("npu-sim-4")
    built = build(profile)
    stamp = built.stat().st_mtime_ns
    assert build(replace(profile, name="another")) == built
    assert built.stat().st_mtime_ns == stamp
    assert cached_path(LIBRARY, rtl_parameters(profile)) == built
    assert cached_path(LIBRARY, rtl_parameters(replace(profile, parameter_groups=256))) != built


@pytest.mark.parametrize(
    "module",
    ["program", "model.functional_model", "model.report", "hardware.bitstream", "machines.rtl_simulator", "machines.failover"],
)
def test_code_that_runs_beside_a_board_never_imports_onnx(module: str) -> None:
    script = f"import accel.npu.{module}, sys; print('onnx' in sys.modules)"
    assert call([sys.executable, "-c", script]).strip() == "False"


def call(command: list[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout if "-c" in command else finished.stdout + finished.stderr
