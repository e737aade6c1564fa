// The whole design on the Radiona ULX3S: oscillator, PLL, board shell with its core, serial line, lamps, SDRAM.
`default_nettype none
module npu_ulx3s #(
  parameter int INPUT_DIVIDER = 1,
  parameter int FEEDBACK_DIVIDER = 24,
  parameter int OUTPUT_DIVIDER = 10,
  parameter int CYCLES_PER_BIT = 20,
  parameter int ROWS = 16,
  parameter int COLUMNS = 16,
  parameter int VECTOR_LANES = 4,
  parameter int PAIRED = 1,
  parameter int MICROSCALING = 0,
  parameter int INSTRUCTIONS = 2048,
  parameter int WEIGHT_ROWS = 8192,
  parameter int ACTIVATION_VECTORS = 4096,
  parameter int ACCUMULATOR_DEPTH = 512,
  parameter int PARAMETER_GROUPS = 512,
  parameter int EXTERNAL = 1,
  parameter int POWER_UP_CYCLES = 12600,
  parameter int REFRESH_CYCLES = 450,
  parameter bit [63:0] PROFILE_HASH = 0
) (
  input  wire clk_25mhz,
  input  wire ftdi_txd,    // what the FTDI chip transmits
  output wire ftdi_rxd,
  output wire [1:0] led,   // 0: a frame or a program is under way; 1: the PLL has locked
  output wire wifi_gpio0,  // low would let the ESP32 take over the board
  output wire sdram_clk,
  output wire sdram_cke,
  output wire sdram_csn,
  output wire sdram_rasn,
  output wire sdram_casn,
  output wire sdram_wen,
  output wire [1:0] sdram_ba,
  output wire [12:0] sdram_a,
  output wire [1:0] sdram_dqm,
  inout  wire [15:0] sdram_d
);
  wire clk, clk_early, rst, quiet, drive;
  wire [15:0] sdram_out;
  npu_clock #(
    .INPUT_DIVIDER(INPUT_DIVIDER), .FEEDBACK_DIVIDER(FEEDBACK_DIVIDER), .OUTPUT_DIVIDER(OUTPUT_DIVIDER)
  ) clock (.oscillator(clk_25mhz), .clk, .clk_early, .rst);
  wire [15:0] cycles_per_bit;  // of interest to a simulation only
  wire unused_speed = &{1'b0, cycles_per_bit};
  npu_board #(
    .CYCLES_PER_BIT(CYCLES_PER_BIT), .ROWS(ROWS), .COLUMNS(COLUMNS), .VECTOR_LANES(VECTOR_LANES), .PAIRED(PAIRED),
    .MICROSCALING(MICROSCALING), .INSTRUCTIONS(INSTRUCTIONS), .WEIGHT_ROWS(WEIGHT_ROWS), .ACTIVATION_VECTORS(ACTIVATION_VECTORS),
    .ACCUMULATOR_DEPTH(ACCUMULATOR_DEPTH), .PARAMETER_GROUPS(PARAMETER_GROUPS), .EXTERNAL(EXTERNAL),
    .POWER_UP_CYCLES(POWER_UP_CYCLES), .REFRESH_CYCLES(REFRESH_CYCLES), .PROFILE_HASH(PROFILE_HASH)
  ) board (
    .clk, .rst, .rx(ftdi_txd), .tx(ftdi_rxd), .quiet, .cycles_per_bit,
    .sdram_cke, .sdram_cs_n(sdram_csn), .sdram_ras_n(sdram_rasn), .sdram_cas_n(sdram_casn), .sdram_we_n(sdram_wen), .sdram_ba,
    .sdram_a, .sdram_dq_out(sdram_out), .sdram_dq_drive(drive), .sdram_dq_in(sdram_d));
  ODDRX1F forward (.SCLK(clk_early), .RST(1'b0), .D0(1'b1), .D1(1'b0), .Q(sdram_clk));
  assign sdram_d = drive ? sdram_out : 16'hzzzz;
  assign sdram_dqm = 2'b00;
  assign led = {!rst, !quiet};
  assign wifi_gpio0 = 1;
endmodule
`default_nettype wire
