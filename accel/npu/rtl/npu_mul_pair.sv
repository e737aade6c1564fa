// Two products through one 18x18 multiplier: (wa * 2^10 + wb) * x. The low product reaches 6 bits into the high one; those
// 6 bits are found again with the low 6 bits of wa * x, from adders (a 6x6 product would cost another multiplier).
// The weights come one cycle before the activation: what they are packed into then waits beside the multiplier.
// Exact for wa in [-127, 127] and every wb and x: tests/npu/hardware/test_npu_sources.py goes through all of them.
`default_nettype none
module npu_mul_pair (
  input  wire               clk,
  input  wire signed [7:0]  wa,
  input  wire signed [7:0]  wb,
  input  wire signed [7:0]  x,
  output reg  signed [15:0] pa,
  output reg  signed [15:0] pb
);
  reg signed [17:0] both;
  reg [5:0] high;
  wire [5:0] low_bits = ((x[0] ? high : 6'd0) + (x[1] ? {high[4:0], 1'b0} : 6'd0))
                      + ((x[2] ? {high[3:0], 2'b0} : 6'd0) + (x[3] ? {high[2:0], 3'b0} : 6'd0))
                      + ((x[4] ? {high[1:0], 4'b0} : 6'd0) + (x[5] ? {high[0], 5'b0} : 6'd0));
  reg signed [25:0] product;
  reg [5:0] low;
  wire [5:0] carried = product[15:10] - low;  // what wb * x put above bit 10, in [-16, 16]
  always_ff @(posedge clk) begin
    both <= $signed({wa, 10'b0}) + 18'(wb);
    high <= wa[5:0];
    product <= 26'(both) * 26'(x);
    low <= low_bits;
    pb <= {carried, product[9:0]};
    pa <= product[25:10] - 16'($signed(carried));
  end
endmodule
`default_nettype wire
