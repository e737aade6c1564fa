// How much of each memory was uploaded, from its beginning without a gap, and the running CRC32 of that.
//
// This is what lets an upload go on after a break, and what a RUN is held against. A reset forgets it all. What is read comes two
// cycles behind its region.
`default_nettype none
module npu_uploads (
  input  wire        clk,
  input  wire        rst,
  input  wire [2:0]  region,
  output reg  [25:0] next,      // in words
  output reg  [31:0] sum,       // before the inversion that ends a CRC32
  input  wire        begins,    // the upload of `region` starts anew
  input  wire        store,
  input  wire [25:0] new_next,
  input  wire [31:0] new_sum
);
  reg [25:0] all_next [0:7];
  reg [31:0] all_sum [0:7];
  reg [2:0] region_read;
  always_ff @(posedge clk) begin
    region_read <= region;
    next <= all_next[region_read];
    sum <= all_sum[region_read];
  end
  always_ff @(posedge clk)
    if (rst) for (int i = 0; i < 8; i = i + 1) begin
      all_next[i] <= 0;
      all_sum[i] <= 32'hFFFFFFFF;
    end else if (begins || store) begin
      all_next[region] <= begins ? 0 : new_next;
      all_sum[region] <= begins ? 32'hFFFFFFFF : new_sum;
    end
endmodule
`default_nettype wire
