// The address generator: four nested counters (tap row, tap column, output row, output column) with pitches, and for every
// visit whether it falls outside the input plane. One visit per cycle; a sweep over fewer than SWEEP_MIN positions is
// stretched, so that a sum written by one tap can be read back by the next.
//
// Positions and taps are counted down, and whether one is the last is kept in a flag beside its counter: the end of a pass
// decides within the same cycle whether the next instruction is issued, which is the longest way through the core.
`default_nettype none
`include "npu_isa.svh"
module npu_address #(
  parameter int SWEEP_MIN = 4
) (
  input  wire         clk,
  input  wire         rst,
  input  wire         set_shape,
  input  wire         start,
  input  wire [127:0] word,
  output wire         ready,      // a new pass may start in this cycle
  output wire         running,
  output wire         visit,      // the outputs below belong to a visit
  output wire         first_visit,
  output reg          first_tap,
  output wire         in_plane,
  output reg  [15:0]  address,
  output reg  [12:0]  accumulator,
  output reg  [7:0]   padding
);
  reg [11:0] height, width, rows_last, columns_last, rows_left, columns_left;
  reg [3:0] row_step, column_step, row_dilation, column_dilation;
  reg [15:0] row_pitch, column_pitch, tap_row_pitch, tap_column_pitch;
  reg [5:0] kernel_columns_last, tap_rows_left, tap_columns_left;
  reg [12:0] accumulator_base;
  reg [15:0] tap_row_address, tap_address, row_address;
  reg signed [17:0] tap_top, left, tap_left, row, column;
  reg [2:0] age;
  reg run, swept, started, old, last_row, last_column, last_tap_row, last_tap_column;
  reg last_position, last_tap;  // both of the last two, to be known as early

  wire unused_bits = &{1'b0, word};

  wire sweep_ends = run && old && (swept || last_position);

  assign running = run;
  assign ready = !run || (old && (swept || last_position) && last_tap);
  assign visit = run && !swept;
  assign first_visit = visit && !started;
  assign in_plane = row >= 0 && row < $signed({6'b0, height}) && column >= 0 && column < $signed({6'b0, width});

  wire [15:0] next_tap_address = last_tap_column ? tap_row_address + tap_row_pitch : tap_address + tap_column_pitch;
  wire signed [17:0] next_tap_top = last_tap_column ? tap_top + $signed({14'b0, row_dilation}) : tap_top;
  wire signed [17:0] next_tap_left = last_tap_column ? left : tap_left + $signed({14'b0, column_dilation});

  always_ff @(posedge clk) begin
    if (set_shape) begin
      height <= word[`NPU_SHAPE_HEIGHT];
      width <= word[`NPU_SHAPE_WIDTH];
      rows_last <= word[`NPU_SHAPE_ROWS] - 1;
      columns_last <= word[`NPU_SHAPE_COLUMNS] - 1;
      row_step <= word[`NPU_SHAPE_ROW_STEP];
      column_step <= word[`NPU_SHAPE_COLUMN_STEP];
      row_pitch <= word[`NPU_SHAPE_ROW_PITCH];
      column_pitch <= word[`NPU_SHAPE_COLUMN_PITCH];
      padding <= word[`NPU_SHAPE_PADDING];
    end
    // What follows a pass is taken from `word`, be it started or not: `start` comes late in its cycle, and only `run` waits for it.
    if (!run || sweep_ends) begin
      if (!run || last_tap) begin
        tap_rows_left <= word[`NPU_ARRAY_KERNEL_ROWS] - 1;
        last_tap_row <= word[`NPU_ARRAY_KERNEL_ROWS] == 1;
        kernel_columns_last <= word[`NPU_ARRAY_KERNEL_COLUMNS] - 1;
        tap_columns_left <= word[`NPU_ARRAY_KERNEL_COLUMNS] - 1;
        last_tap_column <= word[`NPU_ARRAY_KERNEL_COLUMNS] == 1;
        last_tap <= word[`NPU_ARRAY_KERNEL_ROWS] == 1 && word[`NPU_ARRAY_KERNEL_COLUMNS] == 1;
        row_dilation <= word[`NPU_ARRAY_ROW_DILATION];
        column_dilation <= word[`NPU_ARRAY_COLUMN_DILATION];
        tap_row_pitch <= word[`NPU_ARRAY_TAP_ROW_PITCH];
        tap_column_pitch <= word[`NPU_ARRAY_TAP_COLUMN_PITCH];
        accumulator_base <= word[`NPU_ARRAY_ACCUMULATOR];
        left <= 18'($signed(word[`NPU_ARRAY_LEFT]));
        first_tap <= 1;
        started <= 0;
        tap_row_address <= word[`NPU_ARRAY_BASE];
        begin_sweep(word[`NPU_ARRAY_BASE], 18'($signed(word[`NPU_ARRAY_TOP])), 18'($signed(word[`NPU_ARRAY_LEFT])),
                    word[`NPU_ARRAY_ACCUMULATOR]);
      end else begin
        first_tap <= 0;
        tap_columns_left <= last_tap_column ? kernel_columns_last : tap_columns_left - 1;
        last_tap_column <= last_tap_column ? kernel_columns_last == 0 : tap_columns_left == 1;
        last_tap <= last_tap_column ? kernel_columns_last == 0 && tap_rows_left == 1 : tap_columns_left == 1 && last_tap_row;
        if (last_tap_column) begin
          tap_rows_left <= tap_rows_left - 1;
          last_tap_row <= tap_rows_left == 1;
          tap_row_address <= next_tap_address;
        end
        begin_sweep(next_tap_address, next_tap_top, next_tap_left, accumulator_base);
      end
    end else begin
      age <= old ? age : age + 1;
      old <= old || age == 3'(SWEEP_MIN - 2);
      started <= 1;
      step(last_column);
    end
    if (rst) run <= 0;
    else if (start) run <= 1;
    else if (ready) run <= 0;
  end

  task automatic begin_sweep(
    input [15:0] at, input signed [17:0] top_row, input signed [17:0] left_column, input [12:0] first_accumulator);
    begin
      tap_address <= at;
      row_address <= at;
      address <= at;
      tap_top <= top_row;
      tap_left <= left_column;
      row <= top_row;
      column <= left_column;
      accumulator <= first_accumulator;
      rows_left <= rows_last;
      last_row <= rows_last == 0;
      columns_left <= columns_last;
      last_column <= columns_last == 0;
      last_position <= rows_last == 0 && columns_last == 0;
      age <= 0;
      old <= 0;
      swept <= 0;
    end
  endtask

  task automatic step(input at_row_end);
    begin
      accumulator <= accumulator + 1;
      swept <= swept || last_position;
      if (at_row_end) begin
        columns_left <= columns_last;
        last_column <= columns_last == 0;
        rows_left <= rows_left - 1;
        last_row <= rows_left == 1;
        last_position <= columns_last == 0 && rows_left == 1;
        row_address <= row_address + row_pitch;
        address <= row_address + row_pitch;
        row <= row + $signed({14'b0, row_step});
        column <= tap_left;
      end else begin
        columns_left <= columns_left - 1;
        last_column <= columns_left == 1;
        last_position <= columns_left == 1 && last_row;
        address <= address + column_pitch;
        column <= column + $signed({14'b0, column_step});
      end
    end
  endtask
endmodule
`default_nettype wire
