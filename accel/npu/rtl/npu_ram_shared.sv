// A block memory with two ports: A reads, B writes or reads. This is what a true dual-port block RAM offers.
`default_nettype none
module npu_ram_shared #(
  parameter int WIDTH = 128,
  parameter int DEPTH = 1024
) (
  input  wire                     clk,
  input  wire [$clog2(DEPTH)-1:0] a_address,
  output reg  [WIDTH-1:0]         a_data,
  input  wire [WIDTH/32-1:0]      b_write_enable,
  input  wire [$clog2(DEPTH)-1:0] b_address,
  input  wire [WIDTH-1:0]         b_write_data,
  output reg  [WIDTH-1:0]         b_data
);
  reg [WIDTH-1:0] memory [0:DEPTH-1];
  reg [WIDTH-1:0] a_fetched, b_fetched;
  always_ff @(posedge clk) begin
    a_fetched <= memory[a_address];
    a_data <= a_fetched;
  end
  always_ff @(posedge clk) begin
    for (int slice = 0; slice < WIDTH/32; slice = slice + 1)
      if (b_write_enable[slice]) memory[b_address][slice*32 +: 32] <= b_write_data[slice*32 +: 32];
    if (b_write_enable == 0) b_fetched <= memory[b_address];
    b_data <= b_fetched;
  end
endmodule
`default_nettype wire
