// The address generator: four nested counters (tap row, tap column, output row, output column) with pitches, and for every
// visit whether it falls outside the input plane. One visit per cycle; a sweep over fewer than SWEEP_MIN positions is
// stretched, so that a sum written by one tap can be read back by the next.
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
  output wire         first_tap,
  output wire         in_plane,
  output reg  [15:0]  address,
  output reg  [12:0]  accumulator,
  output reg  [7:0]   padding
);
  reg [11:0] height, width, rows, columns;
  reg [3:0] row_step, column_step, row_dilation, column_dilation;
  reg [15:0] row_pitch, column_pitch, tap_row_pitch, tap_column_pitch;
  reg [5:0] kernel_rows, kernel_columns, tap_row, tap_column;
  reg [12:0] accumulator_base;
  reg [15:0] tap_row_address, tap_address, row_address;
  reg signed [17:0] tap_top, left, tap_left, row, column;
  reg [11:0] out_row, out_column;
  reg [2:0] age;
  reg run, swept, started;

  wire unused_bits = &{1'b0, word};

  wire last_column = out_column == columns - 1;
  wire last_position = last_column && out_row == rows - 1;
  wire last_tap_column = tap_column == kernel_columns - 1;
  wire last_tap = last_tap_column && tap_row == kernel_rows - 1;
  wire sweep_ends = run && (swept || last_position) && age >= 3'(SWEEP_MIN - 1);

  assign running = run;
  assign ready = !run || (sweep_ends && last_tap);
  assign visit = run && !swept;
  assign first_visit = visit && !started;
  assign first_tap = tap_row == 0 && tap_column == 0;
  assign in_plane = row >= 0 && row < $signed({6'b0, height}) && column >= 0 && column < $signed({6'b0, width});

  wire [15:0] next_tap_address = last_tap_column ? tap_row_address + tap_row_pitch : tap_address + tap_column_pitch;
  wire signed [17:0] next_tap_top = last_tap_column ? tap_top + $signed({14'b0, row_dilation}) : tap_top;
  wire signed [17:0] next_tap_left = last_tap_column ? left : tap_left + $signed({14'b0, column_dilation});

  always_ff @(posedge clk) begin
    if (set_shape) begin
      height <= word[`NPU_SHAPE_HEIGHT];
      width <= word[`NPU_SHAPE_WIDTH];
      rows <= word[`NPU_SHAPE_ROWS];
      columns <= word[`NPU_SHAPE_COLUMNS];
      row_step <= word[`NPU_SHAPE_ROW_STEP];
      column_step <= word[`NPU_SHAPE_COLUMN_STEP];
      row_pitch <= word[`NPU_SHAPE_ROW_PITCH];
      column_pitch <= word[`NPU_SHAPE_COLUMN_PITCH];
      padding <= word[`NPU_SHAPE_PADDING];
    end
    if (start) begin
      kernel_rows <= word[`NPU_ARRAY_KERNEL_ROWS];
      kernel_columns <= word[`NPU_ARRAY_KERNEL_COLUMNS];
      row_dilation <= word[`NPU_ARRAY_ROW_DILATION];
      column_dilation <= word[`NPU_ARRAY_COLUMN_DILATION];
      tap_row_pitch <= word[`NPU_ARRAY_TAP_ROW_PITCH];
      tap_column_pitch <= word[`NPU_ARRAY_TAP_COLUMN_PITCH];
      accumulator_base <= word[`NPU_ARRAY_ACCUMULATOR];
      left <= 18'($signed(word[`NPU_ARRAY_LEFT]));
      tap_row <= 0;
      tap_column <= 0;
      started <= 0;
      tap_row_address <= word[`NPU_ARRAY_BASE];
      begin_sweep(word[`NPU_ARRAY_BASE], 18'($signed(word[`NPU_ARRAY_TOP])), 18'($signed(word[`NPU_ARRAY_LEFT])),
                  word[`NPU_ARRAY_ACCUMULATOR]);
    end else if (sweep_ends) begin
      tap_column <= last_tap_column ? 0 : tap_column + 1;
      if (last_tap_column) begin
        tap_row <= tap_row + 1;
        tap_row_address <= next_tap_address;
      end
      begin_sweep(next_tap_address, next_tap_top, next_tap_left, accumulator_base);
    end else if (run) begin
      age <= age == 3'(SWEEP_MIN - 1) ? age : age + 1;
      started <= 1;
      step(last_column);
    end
    if (rst) run <= 0;
    else if (start) run <= 1;
    else if (sweep_ends && last_tap) run <= 0;
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
      out_row <= 0;
      out_column <= 0;
      age <= 0;
      swept <= 0;
    end
  endtask

  task automatic step(input at_row_end);
    begin
      accumulator <= accumulator + 1;
      swept <= swept || last_position;
      if (at_row_end) begin
        out_column <= 0;
        out_row <= out_row + 1;
        row_address <= row_address + row_pitch;
        address <= row_address + row_pitch;
        row <= row + $signed({14'b0, row_step});
        column <= tap_left;
      end else begin
        out_column <= out_column + 1;
        address <= address + column_pitch;
        column <= column + $signed({14'b0, column_step});
      end
    end
  endtask
endmodule
`default_nettype wire
