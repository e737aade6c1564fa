// The array: ROWS lanes, each with a dot product over COLUMNS activations, and two banks of accumulators.
//
// A visit goes through eight cycles: 0 address, 1-2 activation memory, 3 products, 4 (second half of the paired multiplier),
// 5 sums of four, 6 sum, 7 accumulate. GEMM takes the dot products; DW takes the products before they are summed and adds
// them up channel by channel (npu_depthwise.sv); POOL takes the activations themselves.
`default_nettype none
`include "npu_isa.svh"
module npu_array #(
  parameter int ROWS = 16,
  parameter int COLUMNS = 16,
  parameter int PAIRED = 0,
  parameter int MICROSCALING = 0,
  parameter int ACCUMULATOR_DEPTH = 512
) (
  input  wire                 clk,
  input  wire                 rst,
  input  wire                 renew_weights,        // the live set takes over the shadow set
  input  wire                 set_shape,
  input  wire                 start,
  input  wire                 is_window,            // what starts is DW
  input  wire [127:0]         word,
  output wire                 ready,
  output wire                 busy,
  output wire                 visit,
  output wire [15:0]          activation_address,
  input  wire [COLUMNS*8-1:0] activation,           // two cycles behind its address
  input  wire                 weight_write,
  input  wire                 shift_write,          // `weight_data` holds the shifts of COLUMNS rows
  input  wire [$clog2(ROWS)-1:0] weight_row,
  input  wire [COLUMNS*8-1:0] weight_data,
  input  wire [12:0]          vector_address,       // the vector unit reads the bank that the array leaves alone
  output wire [ROWS*32-1:0]   vector_data           // two cycles behind its address
);
  localparam int BANK_BITS = $clog2(ACCUMULATOR_DEPTH);
  localparam int LAST = 7;
  localparam int SEGMENTS = ROWS >= 16 ? 3 : ROWS / 4;  // kernel rows and columns of a depthwise pass
  localparam int STAGES = ROWS >= 16 ? 5 : 4;
  localparam int SUM_BITS = 19;
  localparam int DOT_BITS = MICROSCALING != 0 ? 32 : 24;

  // ---- address generators: GEMM and POOL go tap by tap, DW visits every vector once
  wire starts_window = start && is_window;
  wire tap_ready, tap_running, tap_visit, tap_first_visit, first_tap, tap_in_plane;
  wire window_ready, window_running, window_visit, window_first_visit, window_emit, window_in_plane;
  wire [15:0] tap_address, window_address;
  wire [12:0] tap_accumulator, window_accumulator;
  wire [7:0] padding;
  wire [6:0] index;
  wire [2:0] kernel_columns;
  wire [1:0] kernel_rows;
  npu_address taps (
    .clk, .rst, .set_shape, .start(start && !starts_window), .word, .ready(tap_ready), .running(tap_running),
    .visit(tap_visit), .first_visit(tap_first_visit), .first_tap, .in_plane(tap_in_plane), .address(tap_address),
    .accumulator(tap_accumulator), .padding);
  npu_window window (
    .clk, .rst, .set_shape, .start(starts_window), .word, .ready(window_ready), .running(window_running),
    .visit(window_visit), .first_visit(window_first_visit), .emit(window_emit), .in_plane(window_in_plane),
    .address(window_address), .accumulator(window_accumulator), .index, .kernel_columns, .kernel_rows);
  assign ready = tap_ready && window_ready;
  assign visit = tap_visit || window_visit;
  assign activation_address = window_running ? window_address : tap_address;

  // ---- what travels beside the data
  wire unused_bits = &{1'b0, index[6], products};
  reg is_gemm, is_maximum, accumulate, swap;
  always_ff @(posedge clk)
    if (start) begin
      is_gemm <= word[3:0] == `NPU_OP_GEMM;
      is_maximum <= word[`NPU_ARRAY_MAXIMUM];
      accumulate <= word[`NPU_ARRAY_ACCUMULATE];
      swap <= word[`NPU_ARRAY_SWAP];
    end

  wire swaps = (tap_first_visit || window_first_visit) && swap;
  reg [LAST:1] valid, maximum, combine;
  reg draining;  // any bit of valid
  reg [6:1] gemm, depthwise;
  reg [2:1] swapping, plane;
  reg [12:0] entry [1:LAST];
  reg [7:0] pad [1:2];
  reg [5:0] index_at [1:5];
  reg [2:0] kernel_columns_at [1:5];
  reg [1:0] kernel_rows_at [1:6];
  always_ff @(posedge clk) begin
    valid <= rst ? 0 : {valid[LAST-1:1], tap_visit || window_emit};
    draining <= !rst && (valid[LAST-1:1] != 0 || tap_visit || window_emit);
    gemm <= {gemm[5:1], is_gemm};
    depthwise <= {depthwise[5:1], window_visit};
    maximum <= {maximum[LAST-1:1], is_maximum};
    combine <= {combine[LAST-1:1], accumulate || (tap_running && !first_tap)};
    swapping <= {swapping[1], swaps};
    plane <= {plane[1], window_running ? window_in_plane : tap_in_plane};
    entry[1] <= window_running ? window_accumulator : tap_accumulator;
    for (int i = 2; i <= LAST; i = i + 1) entry[i] <= entry[i-1];
    pad[1] <= padding;
    pad[2] <= pad[1];
    index_at[1] <= index[5:0];
    kernel_columns_at[1] <= kernel_columns;
    kernel_rows_at[1] <= kernel_rows;
    for (int i = 2; i <= 5; i = i + 1) begin
      index_at[i] <= index_at[i-1];
      kernel_columns_at[i] <= kernel_columns_at[i-1];
    end
    for (int i = 2; i <= 6; i = i + 1) kernel_rows_at[i] <= kernel_rows_at[i-1];
  end
  assign busy = tap_running || window_running || draining;

  // ---- weights: the shadow set loads behind the work, the live set changes with the first visit of a pass, in time for its
  // cycle 3
  reg [COLUMNS*8-1:0] shadow [0:ROWS-1];
  reg [COLUMNS*8-1:0] live [0:ROWS-1];
  reg renewing;  // cycle 1
  always_ff @(posedge clk) begin
    if (weight_write) shadow[weight_row] <= weight_data;
    renewing <= swaps || renew_weights;
    if (renewing) for (int i = 0; i < ROWS; i = i + 1) live[i] <= shadow[i];
  end

  // ---- cycle 3 on: products and sums
  reg [COLUMNS*8-1:0] x;
  always_ff @(posedge clk) x <= plane[2] ? activation : {COLUMNS{pad[2]}};

  reg [COLUMNS*8-1:0] side_4, side_5, side_6;
  always_ff @(posedge clk) begin
    side_4 <= x;
    side_5 <= side_4;
    side_6 <= side_5;
  end

  wire [ROWS*COLUMNS*16-1:0] products;
  wire [COLUMNS*SUM_BITS-1:0] window_sums;
  reg [5:0] write_index;  // cycle 6
  always_ff @(posedge clk) write_index <= index_at[5] + 6'd1 - {3'b0, kernel_columns_at[5]};
  npu_depthwise #(.COLUMNS(COLUMNS), .SEGMENTS(SEGMENTS), .STAGES(STAGES)) windows (
    .clk, .products(products[SEGMENTS*STAGES*COLUMNS*16-1:0]), .kernel_columns(kernel_columns_at[4]),
    .kernel_rows(kernel_rows_at[6]), .read_index(index_at[4]), .write(depthwise[6]),
    .write_index, .sums(window_sums));

  reg signed [DOT_BITS-1:0] sum [0:ROWS-1];
  wire [ROWS*4-1:0] shifts;  // cycle 6
  genvar lane;
  generate
    if (MICROSCALING != 0) begin : g_shifts
      npu_shifts #(.ROWS(ROWS), .COLUMNS(COLUMNS)) shift_registers (
        .clk, .write(shift_write), .group(weight_row), .data(weight_data), .swap(swapping[2]), .shifts);
    end else begin : g_no_shifts
      wire unused_shift = &{1'b0, shift_write, swapping[2]};
      assign shifts = 0;
    end
    for (lane = 0; lane < ROWS; lane = lane + 2) begin : g_dot
      wire signed [23:0] dot_a, dot_b;
      wire signed [DOT_BITS-1:0] sum_a = DOT_BITS'(dot_a) <<< shifts[lane*4 +: 4];
      wire signed [DOT_BITS-1:0] sum_b = DOT_BITS'(dot_b) <<< shifts[(lane+1)*4 +: 4];
      npu_dot #(.COLUMNS(COLUMNS), .PAIRED(PAIRED)) dot (
        .clk, .weights_a(live[lane]), .weights_b(live[lane+1]), .x, .sum_a(dot_a), .sum_b(dot_b),
        .products_a(products[lane*COLUMNS*16 +: COLUMNS*16]), .products_b(products[(lane+1)*COLUMNS*16 +: COLUMNS*16]));
      if (lane < COLUMNS) begin : g_side
        always_ff @(posedge clk) begin
          sum[lane] <= gemm[6] ? sum_a : beside(depthwise[6], window_sums[lane*SUM_BITS +: SUM_BITS], side_6[lane*8 +: 8]);
          sum[lane+1] <= gemm[6] ? sum_b
                       : beside(depthwise[6], window_sums[(lane+1)*SUM_BITS +: SUM_BITS], side_6[(lane+1)*8 +: 8]);
        end
      end else begin : g_no_side
        always_ff @(posedge clk) begin
          sum[lane] <= gemm[6] ? sum_a : DOT_BITS'(0);
          sum[lane+1] <= gemm[6] ? sum_b : DOT_BITS'(0);
        end
      end
    end
  endgenerate

  function automatic signed [DOT_BITS-1:0] beside(input of_window, input signed [SUM_BITS-1:0] total, input signed [7:0] pooled);
    beside = of_window ? DOT_BITS'(total) : DOT_BITS'(pooled);
  endfunction

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
      wire below = $signed(33'(old) - 33'(value)) < 0;  // a sign comes through a carry chain, a comparison through tables
      wire take_value = !combine[LAST] || (maximum[LAST] && below);
      assign combined[lane*32 +: 32] = take_value ? value : maximum[LAST] ? old : old + value;
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
