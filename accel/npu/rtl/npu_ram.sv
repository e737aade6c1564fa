// A block memory with one write port (an enable per 32-bit slice) and one read port. A read takes two cycles: one for the
// memory, one for a register behind it, because a block RAM's clock-to-output time alone takes most of a cycle at 80 MHz.
// Without that register (`REGISTERED` 0) the reader has one of its own.
`default_nettype none
module npu_ram #(
  parameter int WIDTH = 128,
  parameter int DEPTH = 1024,
  parameter int REGISTERED = 1
) (
  input  wire                     clk,
  input  wire [WIDTH/32-1:0]      write_enable,
  input  wire [$clog2(DEPTH)-1:0] write_address,
  input  wire [WIDTH-1:0]         write_data,
  input  wire [$clog2(DEPTH)-1:0] read_address,
  output wire [WIDTH-1:0]         read_data
);
  reg [WIDTH-1:0] memory [0:DEPTH-1];
  reg [WIDTH-1:0] fetched;
  always_ff @(posedge clk) begin
    for (int slice = 0; slice < WIDTH/32; slice = slice + 1)
      if (write_enable[slice]) memory[write_address][slice*32 +: 32] <= write_data[slice*32 +: 32];
    fetched <= memory[read_address];
  end
  generate
    if (REGISTERED != 0) begin : g_registered
      reg [WIDTH-1:0] kept;
      always_ff @(posedge clk) kept <= fetched;
      assign read_data = kept;
    end else begin : g_direct
      assign read_data = fetched;
    end
  endgenerate
endmodule
`default_nettype wire
