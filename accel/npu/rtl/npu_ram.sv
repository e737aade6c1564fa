// A block memory with one write port (an enable per 32-bit slice) and one read port. Every read takes two cycles: one
// for the memory, one for a register behind it, because a block RAM's clock-to-output time alone takes most of a cycle
// at 80 MHz.
`default_nettype none
module npu_ram #(
  parameter int WIDTH = 128,
  parameter int DEPTH = 1024
) (
  input  wire                     clk,
  input  wire [WIDTH/32-1:0]      write_enable,
  input  wire [$clog2(DEPTH)-1:0] write_address,
  input  wire [WIDTH-1:0]         write_data,
  input  wire [$clog2(DEPTH)-1:0] read_address,
  output reg  [WIDTH-1:0]         read_data
);
  reg [WIDTH-1:0] memory [0:DEPTH-1];
  reg [WIDTH-1:0] fetched;
  always_ff @(posedge clk) begin
    for (int slice = 0; slice < WIDTH/32; slice = slice + 1)
      if (write_enable[slice]) memory[write_address][slice*32 +: 32] <= write_data[slice*32 +: 32];
    fetched <= memory[read_address];
    read_data <= fetched;
  end
endmodule
`default_nettype wire
