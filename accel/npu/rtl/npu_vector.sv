// The vector unit: bias, requantise, clamp, add the residual, write back. LANES outputs per cycle.
//
// A group of LANES outputs goes through thirteen cycles: 0 addresses, 1-2 memories, 3 bias added, 4 partial products,
// 5 product, 6 shifted by whole bytes, 7 shifted by the other bits, 8 rounded and clamped, 9 residual products, 10 residual
// sum, 11 shifted, 12 rounded, clamped and written. With that depth and two or more groups per vector a write never meets a
// residual read on the one port that both use: the read is in the first cycle of a vector's groups, the write is not.
`default_nettype none
`include "npu_isa.svh"
module npu_vector #(
  parameter int ROWS = 16,
  parameter int COLUMNS = 16,
  parameter int LANES = 4
) (
  input  wire                 clk,
  input  wire                 rst,
  input  wire                 set_residual,
  input  wire                 start,
  input  wire [127:0]         word,
  output wire                 busy,
  output wire                 working,
  output wire [12:0]          accumulator_address,
  input  wire [ROWS*32-1:0]   accumulator_data,     // two cycles behind its address
  output wire [15:0]          parameter_address,
  input  wire [LANES*96-1:0]  parameter_data,       // two cycles behind its address
  output wire [15:0]          activation_address,
  output wire                 activation_used,      // this cycle's access to the activation memory matters
  output wire                 activation_write,
  output wire [COLUMNS*8-1:0] activation_write_data,
  input  wire [COLUMNS*8-1:0] activation_data       // two cycles behind its address
);
  localparam int GROUPS = COLUMNS / LANES;
  localparam int GROUP_BITS = $clog2(GROUPS);
  localparam int LAST = 12;

  // ---- settings
  reg [12:0] count_last;
  reg [3:0] parts_last;
  reg [15:0] destination, part_pitch, parameters, residual;
  reg signed [7:0] zero, low, high, add_main_zero, add_other_zero, add_zero, add_low, add_high;
  reg [14:0] add_main_multiplier, add_other_multiplier;
  reg [4:0] add_kept;  // the shift, less the one bit that the rounding looks at
  reg [25:0] add_below, add_beyond;  // the bits of a sum that it leaves behind, and those that say whether the rest fits
  reg add;
  wire [15:0] main_digits = {1'b0, add_main_multiplier};
  wire [15:0] other_digits = {1'b0, add_other_multiplier};
  always_ff @(posedge clk) begin
    if (set_residual) begin
      add_main_zero <= word[`NPU_RESIDUAL_MAIN_ZERO];
      add_other_zero <= word[`NPU_RESIDUAL_OTHER_ZERO];
      add_main_multiplier <= word[`NPU_RESIDUAL_MAIN_MULTIPLIER];
      add_other_multiplier <= word[`NPU_RESIDUAL_OTHER_MULTIPLIER];
      add_kept <= word[`NPU_RESIDUAL_SHIFT] - 1;
      add_zero <= word[`NPU_RESIDUAL_ZERO];
      add_low <= word[`NPU_RESIDUAL_LOW];
      add_high <= word[`NPU_RESIDUAL_HIGH];
    end
    add_below <= ~({26{1'b1}} << add_kept);
    add_beyond <= {{15{1'b1}}, 11'b0} << add_kept;
    if (start) begin
      count_last <= word[`NPU_VEC_COUNT] - 1;
      parts_last <= word[`NPU_VEC_PARTS] - 1;
      destination <= word[`NPU_VEC_DESTINATION];
      part_pitch <= word[`NPU_VEC_PART_PITCH];
      parameters <= word[`NPU_VEC_PARAMETERS];
      residual <= word[`NPU_VEC_RESIDUAL];
      zero <= word[`NPU_VEC_ZERO];
      low <= word[`NPU_VEC_LOW];
      high <= word[`NPU_VEC_HIGH];
      add <= word[`NPU_VEC_ADD];
    end
  end

  wire unused_bits = &{1'b0, word, parameter_data, collected};

  // ---- cycle 0: positions, parts of a position, groups of a part
  reg run;
  reg [12:0] position, entry;
  reg [3:0] part;
  reg [GROUP_BITS-1:0] group;
  reg [15:0] offset, parameter_at;
  wire last_group = group == GROUP_BITS'(GROUPS - 1);
  wire last_part = part == parts_last;
  always_ff @(posedge clk) begin
    if (start) begin
      position <= 0;
      entry <= word[`NPU_VEC_ACCUMULATOR];
      part <= 0;
      group <= 0;
      offset <= 0;
      parameter_at <= word[`NPU_VEC_PARAMETERS];
    end else if (run) begin
      group <= group + 1;
      parameter_at <= parameter_at + 1;
      if (last_group) begin
        part <= last_part ? 0 : part + 1;
        offset <= last_part ? {3'b0, position} + 1 : offset + part_pitch;
        if (last_part) begin
          position <= position + 1;
          entry <= entry + 1;
          parameter_at <= parameters;
        end
      end
    end
    if (rst) run <= 0;
    else if (start) run <= 1;
    else if (last_group && last_part && position == count_last) run <= 0;
  end
  assign working = run;
  assign accumulator_address = entry;
  assign parameter_address = parameter_at;

  // ---- what travels beside the data
  reg [LAST:1] valid, ends;
  reg draining;  // any bit of valid
  reg [15:0] write_address [1:LAST];
  reg [3:0] part_at [1:2];
  reg [GROUP_BITS-1:0] group_at [1:3];
  always_ff @(posedge clk) begin
    valid <= rst ? 0 : {valid[LAST-1:1], run};
    draining <= !rst && (valid[LAST-1:1] != 0 || run);
    ends <= {ends[LAST-1:1], run && last_group};
    write_address[1] <= destination + offset;
    for (int i = 2; i <= LAST; i = i + 1) write_address[i] <= write_address[i-1];
    part_at[1] <= part;
    part_at[2] <= part_at[1];
    group_at[1] <= group;
    group_at[2] <= group_at[1];
    group_at[3] <= group_at[2];
  end
  assign busy = run || draining;

  // ---- the residual's vector is read in the first cycle of a vector and held for its groups
  reg [COLUMNS*8-1:0] other_vector;
  always_ff @(posedge clk) if (group_at[2] == 0) other_vector <= activation_data;
  wire [LANES*8-1:0] other_group = other_vector[32'(group_at[3])*LANES*8 +: LANES*8];

  // ---- lanes. Rounding is to the nearest, half to even: one bit behind the point is kept, and it counts if anything
  // follows it or if that makes the result even.
  wire [LANES*32-1:0] lanes =
    accumulator_data[(32'(part_at[2])*COLUMNS + 32'(group_at[2])*LANES)*32 +: LANES*32];
  wire [LANES*8-1:0] result;
  genvar lane;
  generate
    for (lane = 0; lane < LANES; lane = lane + 1) begin : g_lane
      reg signed [31:0] biased, multiplier;
      reg [5:0] shift_3, kept_4, kept_5;
      reg signed [31:0] high_high_4;
      reg [31:0] low_low_4;
      reg signed [35:0] both_4;
      wire signed [17:0] biased_both = 18'($signed(biased[31:16])) + $signed({2'b0, biased[15:0]});
      reg signed [17:0] multiplier_both;
      wire signed [35:0] crossed = both_4 - 36'(high_high_4) - $signed({4'b0, low_low_4});
      reg signed [63:0] product_5;
      wire [18:0] bytes_shifted = 19'(product_5 >>> {kept_5[5:3], 3'b0});
      reg signed [18:0] value_6;  // all bits that count if the value is not beyond
      reg beyond_6, negative_6, follows_6;
      reg [2:0] kept_6;
      wire signed [18:0] scaled = value_6 >>> kept_6;
      wire fits = !beyond_6 && (scaled[18:11] == 8'h00 || scaled[18:11] == 8'hFF);
      wire follows = follows_6 || (value_6[6:0] & ~(7'h7F << kept_6)) != 0;
      reg signed [11:0] doubled;
      reg round_up;
      reg signed [7:0] main_8, main_9, main_10, main_11;
      reg signed [7:0] other_4, other_5, other_6, other_7;
      reg signed [8:0] other_offset;
      wire signed [8:0] main_offset = 9'(main_8) - 9'(add_main_zero);
      reg signed [12:0] main_product [0:3];  // of the multiplier's digits of four bits
      reg signed [12:0] other_product [0:3];
      reg signed [25:0] add_sum;
      wire [11:0] add_scaled = 12'(add_sum >>> add_kept);
      wire add_fits = ((add_sum ^ {26{add_sum[25]}}) & add_beyond) == 0;
      wire add_follows = (add_sum & add_below) != 0;
      reg signed [11:0] add_doubled;
      reg add_round_up;
      reg signed [7:0] result_12;
      always_ff @(posedge clk) begin
        biased <= $signed(lanes[lane*32 +: 32]) + $signed(parameter_data[lane*96 +: 32]);
        multiplier <= parameter_data[lane*96+32 +: 32];
        multiplier_both <= 18'($signed(parameter_data[lane*96+48 +: 16])) + $signed({2'b0, parameter_data[lane*96+32 +: 16]});
        shift_3 <= parameter_data[lane*96+64 +: 6];
        // Karatsuba: three products of half words, because a multiplier of the chip takes 18 bits, and three fit where four
        // would halve the lanes: the product of the sums holds both of the crossed ones.
        high_high_4 <= 32'($signed(biased[31:16])) * 32'($signed(multiplier[31:16]));
        low_low_4 <= 32'(biased[15:0]) * 32'(multiplier[15:0]);
        both_4 <= 36'(biased_both) * 36'(multiplier_both);
        product_5 <= $signed({high_high_4, low_low_4}) + (64'(crossed) <<< 16);
        kept_4 <= shift_3 - 1;
        kept_5 <= kept_4;
        value_6 <= bytes_shifted;
        beyond_6 <= ((product_5[63:18] ^ {46{product_5[63]}}) & ({46{1'b1}} << {kept_5[5:3], 3'b0})) != 0;
        negative_6 <= product_5[63];
        follows_6 <= (product_5 & ~({64{1'b1}} << {kept_5[5:3], 3'b0})) != 0;
        kept_6 <= kept_5[2:0];
        doubled <= fits ? scaled[11:0] : {negative_6, {11{!negative_6}}};
        round_up <= follows || scaled[1];
        main_8 <= clamp(rounded(doubled, round_up, zero), low, high);
        main_9 <= main_8;
        main_10 <= main_9;
        main_11 <= main_10;
        other_4 <= other_group[lane*8 +: 8];
        other_5 <= other_4;
        other_6 <= other_5;
        other_7 <= other_6;
        other_offset <= 9'(other_7) - 9'(add_other_zero);
        for (int i = 0; i < 4; i = i + 1) begin
          main_product[i] <= times(main_offset, main_digits[i*4 +: 4]);
          other_product[i] <= times(other_offset, other_digits[i*4 +: 4]);
        end
        add_sum <= (digit_sum(main_product[0], other_product[0]) + (digit_sum(main_product[1], other_product[1]) <<< 4))
          + ((digit_sum(main_product[2], other_product[2]) <<< 8) + (digit_sum(main_product[3], other_product[3]) <<< 12));
        add_doubled <= add_fits ? add_scaled : {add_sum[25], {11{!add_sum[25]}}};
        add_round_up <= add_follows || add_scaled[1];
        result_12 <= add ? clamp(rounded(add_doubled, add_round_up, add_zero), add_low, add_high) : main_11;
      end
      assign result[lane*8 +: 8] = result_12;
    end
  endgenerate

  // A value beyond +-1023 saturates whatever its zero point is, so 12 bits are enough behind the shift. The bit that rounds up
  // and the zero point come through one carry chain: (twice + up + 2 x offset) / 2.
  function automatic signed [11:0] rounded(input signed [11:0] twice, input up, input signed [7:0] center);
    rounded = 12'($signed({twice[11], twice, 1'b1} + {{4{center[7]}}, center, 1'b0, up}) >>> 2);
  endfunction

  // The limits are int8, so what lies between them needs no saturation of its own; signs come through carry chains.
  function automatic signed [7:0] clamp(input signed [11:0] value, input signed [7:0] lowest, input signed [7:0] highest);
    clamp = $signed(13'(value) - 13'(lowest)) < 0 ? lowest : $signed(13'(highest) - 13'(value)) < 0 ? highest : value[7:0];
  endfunction

  // Shifted additions: the multipliers of the chip are all taken by the array and the requantisation.
  function automatic signed [12:0] times(input signed [8:0] a, input [3:0] digit);
    times = ((digit[0] ? 13'(a) : 13'sd0) + (digit[1] ? 13'(a) <<< 1 : 13'sd0))
          + ((digit[2] ? 13'(a) <<< 2 : 13'sd0) + (digit[3] ? 13'(a) <<< 3 : 13'sd0));
  endfunction

  function automatic signed [25:0] digit_sum(input signed [12:0] of_main, input signed [12:0] of_other);
    digit_sum = 26'(of_main) + 26'(of_other);
  endfunction

  // ---- cycle 12: the last group of a vector completes it
  reg [COLUMNS*8-1:0] collected;
  wire [COLUMNS*8-1:0] complete = {result, collected[COLUMNS*8-1:LANES*8]};
  always_ff @(posedge clk) if (valid[LAST]) collected <= complete;
  assign activation_write = valid[LAST] && ends[LAST];
  assign activation_write_data = complete;
  assign activation_used = activation_write || (run && group == 0);
  assign activation_address = activation_write ? write_address[LAST] : residual + offset;
endmodule
`default_nettype wire
