// Depthwise windows from the array's own products: one visit of a vector serves every tap of the kernel.
//
// All rows of the array multiply the same vector, so row s x STAGES + t has its product with one tap of kernel row s. Partial
// sums move along a chain of STAGES per kernel row (a transposed finite impulse response filter); the end of one chain waits
// in a line buffer until the next row of the input comes by, and goes on at the start of the next chain. A kernel of fewer
// columns than STAGES starts in the middle of its chain and ends where all end.
//
// Cycles of a visit as in npu_array.sv: the line buffers are read in 4, products are added in 5, ends are out in 6.
`default_nettype none
module npu_depthwise #(
  parameter int COLUMNS = 16,
  parameter int SEGMENTS = 3,
  parameter int STAGES = 5
) (
  input  wire                    clk,
  input  wire [SEGMENTS*STAGES*COLUMNS*16-1:0] products, // cycle 5
  input  wire [2:0]              kernel_columns,         // cycle 4
  input  wire [1:0]              kernel_rows,            // cycle 6
  input  wire [5:0]              read_index,             // cycle 4
  input  wire                    write,                  // cycle 6
  input  wire [5:0]              write_index,            // cycle 6
  output wire [COLUMNS*SUM_BITS-1:0] sums                // cycle 6
);
  localparam int SUM_BITS = 19;  // 15 products of 127 x 128
  localparam int WIDTH = COLUMNS * SUM_BITS;

  wire [WIDTH-1:0] fed [0:SEGMENTS-1];
  wire [WIDTH-1:0] ends [0:SEGMENTS-1];
  assign fed[0] = 0;
  wire unused_bits = &{1'b0, read_index, write, write_index};  // no line buffer where there is one segment
  reg [STAGES-1:1] begins;  // the stage at which a chain begins, cycle 5
  always_ff @(posedge clk) for (int i = 1; i < STAGES; i = i + 1) begins[i] <= kernel_columns == 3'(STAGES - i);

  genvar segment, stage, column;
  generate
    for (segment = 0; segment < SEGMENTS; segment = segment + 1) begin : g_segment
      for (column = 0; column < COLUMNS; column = column + 1) begin : g_column
        wire signed [SUM_BITS-1:0] start = fed[segment][column*SUM_BITS +: SUM_BITS];
        for (stage = 0; stage < STAGES; stage = stage + 1) begin : g_stage
          reg signed [SUM_BITS-1:0] partial;
          wire signed [15:0] product = products[((segment*STAGES + stage)*COLUMNS + column)*16 +: 16];
          wire signed [SUM_BITS-1:0] carried;
          if (stage == 0) begin : g_first
            assign carried = start;
          end else begin : g_next
            assign carried = begins[stage] ? start : g_stage[stage-1].partial;
          end
          always_ff @(posedge clk) partial <= carried + SUM_BITS'(product);
        end
        assign ends[segment][column*SUM_BITS +: SUM_BITS] = g_stage[STAGES-1].partial;
      end
      if (segment + 1 < SEGMENTS) begin : g_line
        // Shallow and wide, which wastes block memory: a small part has none to spare. In a large one it is the wiring that is
        // scarce, and distributed memory takes a lot of it.
        reg [WIDTH-1:0] read;
        if (COLUMNS >= 16) begin : g_block
          (* ram_style = "block" *) reg [WIDTH-1:0] line [0:63];
          always_ff @(posedge clk) begin
            if (write) line[write_index] <= ends[segment];
            read <= line[read_index];
          end
        end else begin : g_distributed
          (* ram_style = "distributed" *) reg [WIDTH-1:0] line [0:63];
          always_ff @(posedge clk) begin
            if (write) line[write_index] <= ends[segment];
            read <= line[read_index];
          end
        end
        assign fed[segment+1] = read;
      end
    end
  endgenerate

  wire [WIDTH-1:0] chosen [0:3];
  genvar choice;
  generate
    for (choice = 0; choice < 4; choice = choice + 1) begin : g_choice
      assign chosen[choice] = ends[choice == 0 || choice > SEGMENTS ? 0 : choice - 1];
    end
  endgenerate
  assign sums = chosen[kernel_rows];
endmodule
`default_nettype wire
