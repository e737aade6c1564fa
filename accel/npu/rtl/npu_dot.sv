// Two dot products of COLUMNS int8 terms over one activation vector: the work of two lanes of the array.
//
// The weights are sampled one cycle before `x`, which is sampled at the end of cycle 0; the products are valid in cycle 2, `sum_a` and `sum_b` in cycle 3 (combinational
// behind the registers).
`default_nettype none
module npu_dot #(
  parameter int COLUMNS = 16,
  parameter int PAIRED = 0
) (
  input  wire                 clk,
  input  wire [COLUMNS*8-1:0] weights_a,
  input  wire [COLUMNS*8-1:0] weights_b,
  input  wire [COLUMNS*8-1:0] x,
  output reg  signed [23:0]   sum_a,
  output reg  signed [23:0]   sum_b,
  output wire [COLUMNS*16-1:0] products_a,
  output wire [COLUMNS*16-1:0] products_b
);
  reg signed [15:0] product_a [0:COLUMNS-1];
  reg signed [15:0] product_b [0:COLUMNS-1];
  genvar column;
  generate
    if (PAIRED != 0) begin : g_paired
      for (column = 0; column < COLUMNS; column = column + 1) begin : g_column
        wire signed [15:0] pa, pb;
        npu_mul_pair pair (
          .clk, .wa(weights_a[column*8 +: 8]), .wb(weights_b[column*8 +: 8]), .x(x[column*8 +: 8]), .pa, .pb);
        always_comb product_a[column] = pa;
        always_comb product_b[column] = pb;
      end
    end else begin : g_plain
      reg [COLUMNS*8-1:0] held_a, held_b;
      reg signed [15:0] early_a [0:COLUMNS-1];
      reg signed [15:0] early_b [0:COLUMNS-1];
      always_ff @(posedge clk) begin
        held_a <= weights_a;
        held_b <= weights_b;
        for (int i = 0; i < COLUMNS; i = i + 1) begin
          early_a[i] <= 16'($signed(held_a[i*8 +: 8])) * 16'($signed(x[i*8 +: 8]));
          early_b[i] <= 16'($signed(held_b[i*8 +: 8])) * 16'($signed(x[i*8 +: 8]));
          product_a[i] <= early_a[i];  // as late as the paired multiplier, so that both builds take the same cycles
          product_b[i] <= early_b[i];
        end
      end
    end
  endgenerate

  generate
    for (column = 0; column < COLUMNS; column = column + 1) begin : g_products
      assign products_a[column*16 +: 16] = product_a[column];
      assign products_b[column*16 +: 16] = product_b[column];
    end
  endgenerate

  reg signed [17:0] four_a [0:COLUMNS/4-1];
  reg signed [17:0] four_b [0:COLUMNS/4-1];
  always_ff @(posedge clk)
    for (int i = 0; i < COLUMNS/4; i = i + 1) begin
      four_a[i] <= (18'(product_a[4*i]) + 18'(product_a[4*i+1])) + (18'(product_a[4*i+2]) + 18'(product_a[4*i+3]));
      four_b[i] <= (18'(product_b[4*i]) + 18'(product_b[4*i+1])) + (18'(product_b[4*i+2]) + 18'(product_b[4*i+3]));
    end
  always_comb begin
    sum_a = 0;
    sum_b = 0;
    for (int i = 0; i < COLUMNS/4; i = i + 1) begin
      sum_a = sum_a + 24'(four_a[i]);
      sum_b = sum_b + 24'(four_b[i]);
    end
  end
endmodule
`default_nettype wire
