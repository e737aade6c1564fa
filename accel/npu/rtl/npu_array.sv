// The array: ROWS lanes, each with a dot product over COLUMNS activations, and two banks of accumulators.
//
// A visit goes through eight cycles: 0 address, 1-2 activation memory, 3 products, 4 (second half of the paired multiplier),
// 5 sums of four, 6 sum, 7 accumulate. GEMM takes the dot products; DW and POOL take one channel per lane, beside them.
`default_nettype none
`include "npu_isa.svh"
module npu_array #(
  parameter int ROWS = 16,
  parameter int COLUMNS = 16,
  parameter int PAIRED = 0,
  parameter int ACCUMULATOR_DEPTH = 512
) (
  input  wire                 clk,
  input  wire                 rst,
  input  wire                 clear_weights,        // at the start of a run
  input  wire                 set_shape,
  input  wire                 start,
  input  wire [127:0]         word,
  output wire                 ready,
  output wire                 busy,
  output wire                 visit,
  output wire [15:0]          activation_address,
  input  wire [COLUMNS*8-1:0] activation,           // two cycles behind its address
  input  wire                 weight_write,
  input  wire [$clog2(ROWS)-1:0] weight_row,
  input  wire [COLUMNS*8-1:0] weight_data,
  input  wire [12:0]          vector_address,       // the vector unit reads the bank that the array leaves alone
  output wire [ROWS*32-1:0]   vector_data           // two cycles behind its address
);
  localparam int BANK_BITS = $clog2(ACCUMULATOR_DEPTH);
  localparam int LAST = 7;

  // ---- address generator and what travels beside the data
  wire running, first_visit, first_tap, in_plane;
  wire [12:0] accumulator;
  wire [7:0] padding, tap;
  npu_address address_generator (
    .clk, .rst, .set_shape, .start, .word, .ready, .running, .visit, .first_visit, .first_tap, .in_plane,
    .address(activation_address), .accumulator, .padding, .tap);

  reg is_gemm, is_pool, is_maximum, accumulate, swap;
  always_ff @(posedge clk)
    if (start) begin
      is_gemm <= word[3:0] == `NPU_OP_GEMM;
      is_pool <= word[3:0] == `NPU_OP_POOL;
      is_maximum <= word[`NPU_ARRAY_MAXIMUM];
      accumulate <= word[`NPU_ARRAY_ACCUMULATE];
      swap <= word[`NPU_ARRAY_SWAP];
    end

  reg [LAST:1] valid, maximum, combine;
  reg [6:1] gemm;
  reg [3:1] pool;
  reg [2:1] swapping, plane;
  reg [12:0] entry [1:LAST];
  reg [7:0] pad [1:2];
  reg [7:0] tap_at [1:3];
  always_ff @(posedge clk) begin
    valid <= rst ? 0 : {valid[LAST-1:1], visit};
    gemm <= {gemm[5:1], is_gemm};
    pool <= {pool[2:1], is_pool};
    maximum <= {maximum[LAST-1:1], is_maximum};
    combine <= {combine[LAST-1:1], accumulate || !first_tap};
    swapping <= {swapping[1], first_visit && swap};
    plane <= {plane[1], in_plane};
    entry[1] <= accumulator;
    for (int i = 2; i <= LAST; i = i + 1) entry[i] <= entry[i-1];
    pad[1] <= padding;
    pad[2] <= pad[1];
    tap_at[1] <= tap;
    tap_at[2] <= tap_at[1];
    tap_at[3] <= tap_at[2];
  end
  assign busy = running || valid != 0;

  // ---- weights: the shadow set loads behind the work, the live set changes with the first visit of a pass
  reg [COLUMNS*8-1:0] shadow [0:ROWS-1];
  reg [COLUMNS*8-1:0] live [0:ROWS-1];
  always_ff @(posedge clk) begin
    if (weight_write) shadow[weight_row] <= weight_data;
    if (swapping[2]) for (int i = 0; i < ROWS; i = i + 1) live[i] <= shadow[i];
    if (clear_weights)
      for (int i = 0; i < ROWS; i = i + 1) begin
        shadow[i] <= 0;
        live[i] <= 0;
      end
  end

  // ---- cycle 3 on: products and sums
  reg [COLUMNS*8-1:0] x;
  always_ff @(posedge clk) x <= plane[2] ? activation : {COLUMNS{pad[2]}};

  wire [COLUMNS*8-1:0] tap_weights = live[tap_at[3][$clog2(ROWS)-1:0]];
  reg signed [15:0] side_4 [0:COLUMNS-1];
  reg signed [15:0] side_5 [0:COLUMNS-1];
  reg signed [15:0] side_6 [0:COLUMNS-1];
  always_ff @(posedge clk)
    for (int i = 0; i < COLUMNS; i = i + 1) begin
      side_4[i] <= pool[3] ? 16'($signed(x[i*8 +: 8])) : times(tap_weights[i*8 +: 8], x[i*8 +: 8]);
      side_5[i] <= side_4[i];
      side_6[i] <= side_5[i];
    end

  // Shifted additions: the multipliers of the chip are all taken by the dot products.
  function automatic signed [15:0] times(input signed [7:0] a, input signed [7:0] b);
    begin
      times = b[7] ? -(16'(a) <<< 7) : 16'sd0;
      for (int i = 0; i < 7; i = i + 1) times = times + (b[i] ? 16'(a) <<< i : 16'sd0);
    end
  endfunction

  reg signed [23:0] sum [0:ROWS-1];
  genvar lane;
  generate
    for (lane = 0; lane < ROWS; lane = lane + 2) begin : g_dot
      wire signed [23:0] sum_a, sum_b;
      npu_dot #(.COLUMNS(COLUMNS), .PAIRED(PAIRED)) dot (
        .clk, .weights_a(live[lane]), .weights_b(live[lane+1]), .x, .sum_a, .sum_b);
      if (lane < COLUMNS) begin : g_side
        always_ff @(posedge clk) begin
          sum[lane] <= gemm[6] ? sum_a : 24'(side_6[lane]);
          sum[lane+1] <= gemm[6] ? sum_b : 24'(side_6[lane+1]);
        end
      end else begin : g_no_side
        always_ff @(posedge clk) begin
          sum[lane] <= gemm[6] ? sum_a : 24'sd0;
          sum[lane+1] <= gemm[6] ? sum_b : 24'sd0;
        end
      end
    end
  endgenerate

  // ---- accumulators: read in cycles 5-6, written in cycle 7
  wire [BANK_BITS-1:0] vector_entry = vector_address[BANK_BITS-1:0];
  reg [1:0] vector_bank;
  always_ff @(posedge clk) vector_bank <= {vector_bank[0], vector_address[BANK_BITS]};
  wire [ROWS*32-1:0] read [0:1];
  wire [ROWS*32-1:0] combined;
  wire write_bank = entry[LAST][BANK_BITS];
  wire [ROWS*32-1:0] earlier = read[write_bank];
  generate
    for (lane = 0; lane < ROWS; lane = lane + 1) begin : g_combine
      wire signed [31:0] old = earlier[lane*32 +: 32];
      wire signed [31:0] value = 32'(sum[lane]);
      wire keep_old = maximum[LAST] && old > value;
      assign combined[lane*32 +: 32] = !combine[LAST] ? value : keep_old ? old : maximum[LAST] ? value : old + value;
    end
  endgenerate
  genvar bank;
  generate
    for (bank = 0; bank < 2; bank = bank + 1) begin : g_bank
      wire mine = valid[5] && entry[5][BANK_BITS] == (bank == 1);
      npu_ram #(.WIDTH(ROWS*32), .DEPTH(ACCUMULATOR_DEPTH)) accumulators (
        .clk,
        .write_enable({ROWS{valid[LAST] && write_bank == (bank == 1)}}),
        .write_address(entry[LAST][BANK_BITS-1:0]),
        .write_data(combined),
        .read_address(mine ? entry[5][BANK_BITS-1:0] : vector_entry),
        .read_data(read[bank]));
    end
  endgenerate
  assign vector_data = read[vector_bank[1]];
endmodule
`default_nettype wire
