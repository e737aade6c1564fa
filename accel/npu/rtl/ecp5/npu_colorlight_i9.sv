// The whole design on the Colorlight i9 v7.2 in its extension board: oscillator, PLL, board shell, core, serial line, lamp.
`default_nettype none
module npu_colorlight_i9 #(
  parameter int INPUT_DIVIDER = 1,
  parameter int FEEDBACK_DIVIDER = 24,
  parameter int OUTPUT_DIVIDER = 10,
  parameter int CYCLES_PER_BIT = 20,
  parameter int ROWS = 16,
  parameter int COLUMNS = 8,
  parameter int VECTOR_LANES = 2,
  parameter int PAIRED = 1,
  parameter int MICROSCALING = 0,
  parameter int INSTRUCTIONS = 2048,
  parameter int WEIGHT_ROWS = 8192,
  parameter int ACTIVATION_VECTORS = 4096,
  parameter int ACCUMULATOR_DEPTH = 512,
  parameter int PARAMETER_GROUPS = 512,
  parameter int EXTERNAL = 0,
  parameter int POWER_UP_CYCLES = 12600,
  parameter int REFRESH_CYCLES = 450,
  parameter bit [63:0] PROFILE_HASH = 0
) (
  input  wire clk_25mhz,
  input  wire uart_rx,
  output wire uart_tx,
  output wire led_n        // lit while a frame or a program is under way
);
  wire clk, clk_early, rst, quiet;
  wire cke, cs_n, ras_n, cas_n, we_n, drive;
  wire [1:0] ba;
  wire [12:0] a;
  wire [15:0] out;
  wire unused = &{1'b0, clk_early, cke, cs_n, ras_n, cas_n, we_n, drive, ba, a, out};  // the i9's SDRAM is of another kind
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
    .clk, .rst, .rx(uart_rx), .tx(uart_tx), .quiet, .cycles_per_bit,
    .sdram_cke(cke), .sdram_cs_n(cs_n), .sdram_ras_n(ras_n), .sdram_cas_n(cas_n), .sdram_we_n(we_n), .sdram_ba(ba), .sdram_a(a),
    .sdram_dq_out(out), .sdram_dq_drive(drive), .sdram_dq_in(16'b0));
  assign led_n = quiet || rst;
endmodule
`default_nettype wire
