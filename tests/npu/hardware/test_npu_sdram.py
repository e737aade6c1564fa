"""The SDRAM controller against a memory model that checks the protocol: the controller passes, and every fault is named."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.npu.hardware.sources import RTL
from accel.npu.hardware.verilate import runtime_headers, runtime_objects

DRIVER = r"""
#include "Vnpu_sdram.h"
#include "sdram_model.h"
#include "verilated.h"
#include <random>

static std::string finding;

// Random bursts, with pauses; what is read must be what was written.
extern "C" const char* drive(int bursts) {
  VerilatedContext context;
  Vnpu_sdram controller{&context};
  Sdram memory(100.0);
  std::mt19937 random(1);
  std::vector<uint32_t> expected(1 << 16);
  auto tick = [&] {
    controller.sdram_dq_in = memory.edge({bool(controller.sdram_cke), bool(controller.sdram_cs_n), bool(controller.sdram_ras_n),
      bool(controller.sdram_cas_n), bool(controller.sdram_we_n), controller.sdram_ba, controller.sdram_a,
      controller.sdram_dq_out, bool(controller.sdram_dq_drive)});
    controller.clk = 0;
    controller.eval();
    controller.clk = 1;
    controller.eval();
  };
  controller.rst = 1;
  for (int cycle = 0; cycle < 16; cycle++) tick();
  controller.rst = 0;
  for (int limit = 100000; limit && !controller.idle; limit--) tick();
  int errors = 0;
  for (int burst = 0; burst < bursts && memory.violation.empty(); burst++) {
    const uint32_t address = random() % expected.size(), room = 256 - address % 256;
    const uint32_t words = 1 + random() % (random() % 2 ? room : 1);
    const bool write = burst < 20 || random() % 2;
    for (int pause = random() % 4 ? 0 : random() % 40; pause; pause--) tick();
    controller.address = address;
    controller.words = words;
    controller.write = write;
    controller.request = 1;
    controller.eval();
    while (!controller.ready) tick();
    tick();
    controller.request = 0;
    uint32_t moved = 0;
    controller.write_data = write ? random() : 0;
    for (controller.eval(); !controller.done; controller.eval()) {
      const bool takes = controller.take;
      if (takes && write) expected[address + moved++] = controller.write_data;
      tick();
      if (takes) controller.write_data = random();
      if (controller.valid && !write) errors += controller.read_data != expected[address + moved++];
    }
    errors += moved != words;
  }
  const std::string violation = memory.violation;
  finding = violation.empty() ? (errors ? "wrong data" : "") : violation.substr(0, violation.find(" in cycle"));
  return finding.c_str();
}
"""


def drive_controller(source: str, folder: Path, require: Callable[[str], Path]) -> str:
    verilator = str(require("verilator"))
    (folder / "npu_sdram.sv").write_text(source, encoding="utf-8")
    (folder / "driver.cpp").write_text(DRIVER, encoding="utf-8")
    call([verilator, "--cc", "-O3", "--Mdir", str(folder), "--top-module", "npu_sdram", str(folder / "npu_sdram.sv")])
    code = [*map(str, sorted(folder.glob("*.cpp"))), *map(str, runtime_objects())]
    headers = [f"-I{folder}", f"-I{RTL}", *runtime_headers()]
    library = folder / "driver.so"
    call(["g++", "-O1", "-fPIC", "-shared", "-std=c++17", "-w", *headers, "-o", str(library), *code, "-lpthread"])
    drive = ctypes.CDLL(str(library)).drive
    drive.restype = ctypes.c_char_p
    finding: bytes = drive(3000)
    return finding.decode()


def test_n160_n162_random_bursts_obey_the_protocol_and_keep_the_data(tmp_path: Path, require: Callable[[str], Path]) -> None:
    assert drive_controller((RTL / "npu_sdram.sv").read_text(encoding="utf-8"), tmp_path, require) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("original", "faulty", "violation"),
    [
        pytest.param("state <= OPEN;", "state <= MOVE;", "tRCD: READ or WRITE within 20 ns of ACTIVATE", id="tRCD"),
        pytest.param("RAS = 5", "RAS = 4", "tRAS: PRECHARGE within 45 ns of ACTIVATE", id="tRAS"),
        pytest.param("RFC = 7", "RFC = 6", "tRFC: a command within 70 ns of REFRESH", id="tRFC"),
        pytest.param("WR = 2", "WR = 1", "tWR: PRECHARGE within 2 cycles of WRITE", id="tWR"),
        pytest.param("13'h220", "13'h230", "the mode is not CAS latency 2, sequential, bursts of one", id="mode"),
        pytest.param("POWER_UP_CYCLES = 20000", "POWER_UP_CYCLES = 2000", "a command within 200 us of power-up", id="power-up"),
        pytest.param("REFRESH_CYCLES = 450", "REFRESH_CYCLES = 900", "REFRESH is over 8 intervals late", id="refresh"),
        pytest.param("READ_DEPTH = 4", "READ_DEPTH = 3", "wrong data", id="data taken too early"),
        pytest.param("step < 8", "step < 7", "ACTIVATE before the set-up is complete", id="no mode register"),
    ],
)
def test_n160_n162_a_fault_in_the_controller_is_named(
    original: str, faulty: str, violation: str, tmp_path: Path, require: Callable[[str], Path]
) -> None:
    source = (RTL / "npu_sdram.sv").read_text(encoding="utf-8")
    assert source.count(original) == 1
    assert drive_controller(source.replace(original, faulty), tmp_path, require) == violation


def call(command: list[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout
