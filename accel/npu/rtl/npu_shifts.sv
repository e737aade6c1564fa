// The shifts of number format mxint8: how far each row's dot product goes to the left before it is accumulated, which is what
// the exponent of its block of weights comes to. A shadow set loads behind the work, as the weights' own does; a live set
// changes with the weights in cycle 3 of a visit and follows the products to cycle 6, where it is used.
`default_nettype none
module npu_shifts #(
  parameter int ROWS = 8,
  parameter int COLUMNS = 8
) (
  input  wire                    clk,
  input  wire                    write,
  input  wire [$clog2(ROWS)-1:0] group,  // of COLUMNS rows
  input  wire [COLUMNS*8-1:0]    data,
  input  wire                    swap,   // cycle 2
  output reg  [ROWS*4-1:0]       shifts  // cycle 6
);
  reg [ROWS*4-1:0] shadow, live, live_4, live_5;
  wire unused_bits = &{1'b0, data};
  always_ff @(posedge clk) begin
    if (write)
      for (int i = 0; i < COLUMNS; i = i + 1) shadow[(32'(group)*COLUMNS + i)*4 +: 4] <= data[i*8 +: 4];
    if (swap) live <= shadow;
    live_4 <= live;
    live_5 <= live_4;
    shifts <= live_5;
  end
endmodule
`default_nettype wire
