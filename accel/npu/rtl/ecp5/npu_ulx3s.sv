// The whole design on the Radiona ULX3S: oscillator, PLL, board shell with its core, serial line, lamp.
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
  parameter int INSTRUCTIONS = 2048,
  parameter int WEIGHT_ROWS = 8192,
  parameter int ACTIVATION_VECTORS = 4096,
  parameter int ACCUMULATOR_DEPTH = 512,
  parameter int PARAMETER_GROUPS = 512,
  parameter bit [63:0] PROFILE_HASH = 0
) (
  input  wire clk_25mhz,
  input  wire ftdi_txd,    // what the FTDI chip transmits
  output wire ftdi_rxd,
  output wire [1:0] led,   // 0: a frame or a program is under way; 1: the PLL has locked
  output wire wifi_gpio0   // low would let the ESP32 take over the board
);
  wire clk, rst, quiet;
  npu_clock #(
    .INPUT_DIVIDER(INPUT_DIVIDER), .FEEDBACK_DIVIDER(FEEDBACK_DIVIDER), .OUTPUT_DIVIDER(OUTPUT_DIVIDER)
  ) clock (.oscillator(clk_25mhz), .clk, .rst);
  npu_board #(
    .CYCLES_PER_BIT(CYCLES_PER_BIT), .ROWS(ROWS), .COLUMNS(COLUMNS), .VECTOR_LANES(VECTOR_LANES), .PAIRED(PAIRED),
    .INSTRUCTIONS(INSTRUCTIONS), .WEIGHT_ROWS(WEIGHT_ROWS), .ACTIVATION_VECTORS(ACTIVATION_VECTORS),
    .ACCUMULATOR_DEPTH(ACCUMULATOR_DEPTH), .PARAMETER_GROUPS(PARAMETER_GROUPS), .PROFILE_HASH(PROFILE_HASH)
  ) board (.clk, .rst, .rx(ftdi_txd), .tx(ftdi_rxd), .quiet);
  assign led = {!rst, !quiet};
  assign wifi_gpio0 = 1;
endmodule
`default_nettype wire
