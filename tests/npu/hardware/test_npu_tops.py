"""The top modules of the boards: they pass the linters, and answer a host in simulation with a substitute for the PLL."""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.npu.hardware.boards import BOARDS, Board, top_parameters
from accel.npu.hardware.sources import RTL
from accel.npu.link.frames import cobs_decode, cobs_encode
from accel.npu.profile import find_profile

# Simulation models of two cells of the part. The model of the PLL passes the oscillator through (clk comes from CLKOP) and locks
# after a while; its clock is irregular before.
CELLS = """
module EHXPLLL #(
  parameter PLLRST_ENA = "", INTFB_WAKE = "", STDBY_ENABLE = "", DPHASE_SOURCE = "", OUTDIVIDER_MUXA = "", OUTDIVIDER_MUXB = "",
  OUTDIVIDER_MUXC = "", OUTDIVIDER_MUXD = "", FEEDBK_PATH = "", CLKOP_ENABLE = "", CLKOS_ENABLE = "", CLKOS2_ENABLE = "",
  parameter int CLKI_DIV = 1, CLKFB_DIV = 1, CLKOP_DIV = 1, CLKOP_CPHASE = 0, CLKOP_FPHASE = 0, CLKOS_DIV = 1, CLKOS_CPHASE = 0,
  CLKOS_FPHASE = 0, CLKOS2_DIV = 1, CLKOS2_CPHASE = 0, CLKOS2_FPHASE = 0
) (
  input wire CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG, PLLWAKESYNC,
  input wire ENCLKOP, ENCLKOS, ENCLKOS2, ENCLKOS3,
  output wire CLKOP, CLKOS2, CLKINTFB, LOCK
);
  reg [7:0] age = 0;
  always_ff @(posedge CLKI) if (!(&age)) age <= age + 1;
  assign {CLKOP, CLKOS2, CLKINTFB, LOCK} = {CLKI && age[1:0] != 1, CLKI, CLKI, &age};
endmodule
module ODDRX1F (input wire SCLK, RST, D0, D1, output wire Q);
  assign Q = SCLK ? D0 : D1;
endmodule
"""
# Sends REQUEST (hexadecimal, first byte first) over the serial line and prints every byte that comes back.
HOST = """
module host;
  localparam int BIT = 8;
  reg clk = 0, to_board = 1;
  wire from_board;
  always #5 clk = !clk;
  reg [8*LENGTH-1:0] request = REQUEST;
  BOARD
  task send(input [7:0] value);
    reg [9:0] frame;
    begin
      frame = {1'b1, value, 1'b0};
      for (int i = 0; i < 10; i = i + 1) begin
        to_board = frame[i];
        repeat (BIT) @(posedge clk);
      end
    end
  endtask
  initial begin
    repeat (WAIT) @(posedge clk);
    for (int i = LENGTH - 1; i >= 0; i = i - 1) send(request[8*i +: 8]);
    repeat (4000) @(posedge clk);
    $finish;
  end
  reg [7:0] received;
  always begin
    @(negedge from_board);
    repeat (BIT + BIT / 2) @(posedge clk);
    for (int i = 0; i < 8; i = i + 1) begin
      received[i] = from_board;
      repeat (BIT) @(posedge clk);
    end
    $display("%02x", received);
  end
endmodule
"""
BOARD_PORTS = {
    "colorlight-i9": "npu_colorlight_i9 #(PARAMETERS) board (.clk_25mhz(clk), .uart_rx(to_board), .uart_tx(from_board));",
    "ulx3s-85f": "npu_ulx3s #(PARAMETERS) board (.clk_25mhz(clk), .ftdi_txd(to_board), .ftdi_rxd(from_board));",
}
SMALL = {
    **dict.fromkeys(("ROWS", "COLUMNS", "CYCLES_PER_BIT"), 8),
    **dict.fromkeys(("INSTRUCTIONS", "WEIGHT_ROWS", "ACTIVATION_VECTORS", "ACCUMULATOR_DEPTH", "PARAMETER_GROUPS"), 64),
    "VECTOR_LANES": 2,
    "PAIRED": 0,
    "POWER_UP_CYCLES": 100,
}
MAGIC_REQUEST = bytes.fromhex("0903000100000000")  # N101: read one word of the registers
MAGIC_ANSWER = bytes.fromhex("09830001") + b"EWP1"


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    path = tmp_path / "cells.sv"
    path.write_text(CELLS, encoding="utf-8")
    return path


def sources(board: Board) -> list[str]:
    return [str(path) for path in board.sources if path.suffix == ".sv"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_verilator_reports_no_warning_about_a_top_module(board: Board, cells: Path, require: Callable[[str], Path]) -> None:
    parameters = [f"-G{name}={value}" for name, value in top_parameters(find_profile(board.name), board, 3_000_000).items()]
    about_cells = ["-Wno-DECLFILENAME", "-Wno-MULTITOP", "-Wno-UNUSEDPARAM", "-Wno-UNUSEDSIGNAL"]
    command = [str(require("verilator")), "--lint-only", "-Wall", *about_cells, "--top-module", board.top, f"-I{RTL}"]
    assert call([*command, *parameters, *sources(board), str(cells)]) == ""


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_a_whole_board_answers_after_power_up(board: Board, cells: Path, tmp_path: Path, require: Callable[[str], Path]) -> None:
    answer = answer_of(board, MAGIC_REQUEST, 1000, cells, tmp_path, require)
    assert cobs_decode(answer.removesuffix(b"\0")) == MAGIC_ANSWER + zlib.crc32(MAGIC_ANSWER).to_bytes(4, "little")


def test_a_board_is_silent_until_its_pll_has_locked(cells: Path, tmp_path: Path, require: Callable[[str], Path]) -> None:
    assert answer_of(BOARDS["ulx3s-85f"], MAGIC_REQUEST, 10, cells, tmp_path, require) == b""


def answer_of(board: Board, request: bytes, wait: int, cells: Path, tmp_path: Path, require: Callable[[str], Path]) -> bytes:
    """Simulate the board's top module with Icarus; return what it sends `wait` cycles after power-up and a request."""
    compiler, runner = str(require("iverilog")), str(require("vvp"))
    frame = cobs_encode(request + zlib.crc32(request).to_bytes(4, "little")) + b"\0"
    parameters = ", ".join(f".{name}({value})" for name, value in SMALL.items())
    host = HOST.replace("BOARD", BOARD_PORTS[board.name].replace("PARAMETERS", parameters)).replace("WAIT", str(wait))
    host = host.replace("LENGTH", str(len(frame))).replace("REQUEST", f"{8 * len(frame)}'h{frame.hex()}")
    bench, program = tmp_path / "host.sv", tmp_path / "host"
    bench.write_text(host, encoding="utf-8")
    call([compiler, "-g2012", f"-I{RTL}", "-s", "host", "-o", str(program), str(bench), str(cells), *sources(board)])
    output = call([runner, "-n", str(program)])
    return bytes(int(line, 16) for line in output.split() if len(line) == 2)


def call(command: list[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr
