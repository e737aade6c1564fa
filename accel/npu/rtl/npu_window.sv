// The walk of a depthwise pass: every vector under the windows once, row by row, and the kernel_columns - 1 vectors before
// the first output of a row and kernel_rows - 1 rows before the first row of outputs. `emit` says which visits complete an
// output. Where the dilation equals the step, the walk leaves out the vectors in between.
//
// A row takes at least kernel_columns + 2 cycles, so that a sum left in a line buffer can be read back by the next row, and
// a pass rests for 3 cycles at its end, so that its accumulators can be added to by the next pass.
`default_nettype none
`include "npu_isa.svh"
module npu_window (
  input  wire         clk,
  input  wire         rst,
  input  wire         set_shape,
  input  wire         start,
  input  wire [127:0] word,
  output wire         ready,      // a new pass may start in this cycle
  output wire         running,
  output wire         visit,      // the outputs below belong to a visit
  output wire         first_visit,
  output wire         emit,
  output wire         in_plane,
  output reg  [15:0]  address,
  output reg  [12:0]  accumulator,
  output reg  [6:0]   index,      // of the vector in its row
  output reg  [2:0]   kernel_columns,
  output reg  [1:0]   kernel_rows
);
  localparam bit [1:0] LAST_OF_REST = 2;

  reg [11:0] height, width, rows_last, columns_last, rows_left, columns_left;
  reg [3:0] row_step, column_step, row_stride, column_stride, row_phase, column_phase;
  reg [15:0] row_pitch, column_pitch, row_address;
  reg [2:0] columns_before;
  reg [1:0] rows_before, rest;
  reg signed [17:0] left, row, column;
  reg run, swept, resting, started, last_out_row, last_out_column;  // the last two: beside their counters, as in npu_address.sv

  wire unused_bits = &{1'b0, word};

  wire [3:0] row_period = row_stride == 1 ? row_step : 4'd1;
  wire [3:0] column_period = column_stride == 1 ? column_step : 4'd1;
  wire emit_row = rows_before == 0 && row_phase == 0;
  wire emit_column = columns_before == 0 && column_phase == 0;
  wire last_of_row = emit_column && last_out_column;
  wire row_ends = run && !resting && (swept || last_of_row) && index > {4'b0, kernel_columns};
  wire last_row = emit_row && last_out_row;

  assign running = run;
  assign ready = !run || (resting && rest == LAST_OF_REST);
  assign visit = run && !swept && !resting;
  assign first_visit = visit && !started;
  assign emit = visit && emit_row && emit_column;
  assign in_plane = row >= 0 && row < $signed({6'b0, height}) && column >= 0 && column < $signed({6'b0, width});

  always_ff @(posedge clk) begin
    if (set_shape) begin
      height <= word[`NPU_SHAPE_HEIGHT];
      width <= word[`NPU_SHAPE_WIDTH];
      rows_last <= word[`NPU_SHAPE_ROWS] - 1;
      columns_last <= word[`NPU_SHAPE_COLUMNS] - 1;
      row_step <= word[`NPU_SHAPE_ROW_STEP];
      column_step <= word[`NPU_SHAPE_COLUMN_STEP];
    end
    if (ready) begin  // be it started or not, as in npu_address.sv
      kernel_columns <= word[`NPU_ARRAY_KERNEL_COLUMNS_LOW +: 3];
      kernel_rows <= word[`NPU_ARRAY_KERNEL_ROWS_LOW +: 2];
      row_stride <= word[`NPU_ARRAY_ROW_DILATION];
      column_stride <= word[`NPU_ARRAY_COLUMN_DILATION];
      row_pitch <= word[`NPU_ARRAY_TAP_ROW_PITCH];
      column_pitch <= word[`NPU_ARRAY_TAP_COLUMN_PITCH];
      accumulator <= word[`NPU_ARRAY_ACCUMULATOR];
      row <= 18'($signed(word[`NPU_ARRAY_TOP]));
      left <= 18'($signed(word[`NPU_ARRAY_LEFT]));
      rows_before <= word[`NPU_ARRAY_KERNEL_ROWS_LOW +: 2] - 1;
      row_phase <= 0;
      rows_left <= rows_last;
      last_out_row <= rows_last == 0;
      rest <= 0;
      resting <= 0;
      started <= 0;
      begin_row(word[`NPU_ARRAY_BASE], 18'($signed(word[`NPU_ARRAY_LEFT])), word[`NPU_ARRAY_KERNEL_COLUMNS_LOW +: 3]);
    end else begin
      started <= 1;
      if (emit) accumulator <= accumulator + 1;
      if (row_ends) begin
        resting <= last_row;
        row <= row + $signed({14'b0, row_stride});
        if (rows_before != 0) rows_before <= rows_before - 1;
        else begin
          row_phase <= row_phase == 0 ? row_period - 1 : row_phase - 1;
          if (emit_row) begin
            rows_left <= rows_left - 1;
            last_out_row <= rows_left == 1;
          end
        end
        begin_row(row_address + row_pitch, left, kernel_columns);
      end else begin
        swept <= swept || last_of_row;
        index <= index + 1;
        address <= address + column_pitch;
        column <= column + $signed({14'b0, column_stride});
        if (columns_before != 0) columns_before <= columns_before - 1;
        else begin
          column_phase <= column_phase == 0 ? column_period - 1 : column_phase - 1;
          if (emit_column) begin
            columns_left <= columns_left - 1;
            last_out_column <= columns_left == 1;
          end
        end
      end
      if (resting) rest <= rest + 1;
    end
    if (rst) run <= 0;
    else if (start) run <= 1;
    else if (ready) run <= 0;
  end

  task automatic begin_row(input [15:0] at, input signed [17:0] first_column, input [2:0] kernel_width);
    begin
      row_address <= at;
      address <= at;
      column <= first_column;
      columns_before <= kernel_width - 1;
      column_phase <= 0;
      columns_left <= columns_last;
      last_out_column <= columns_last == 0;
      index <= 0;
      swept <= 0;
    end
  endtask
endmodule
`default_nettype wire
