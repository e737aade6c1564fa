// A host for the core in an event-driven simulator: it plays a list of writes, starts the program, waits for its end, and
// prints the first vectors of the activation memory and the counters, one word a line.
`default_nettype none
module icarus_bench #(
  parameter int ROWS = 4, COLUMNS = 4, VECTOR_LANES = 2, PAIRED = 0, INSTRUCTIONS = 1024, WEIGHT_ROWS = 4096,
  parameter int ACTIVATION_VECTORS = 4096, ACCUMULATOR_DEPTH = 256, PARAMETER_GROUPS = 512, WORDS = 16
);
  reg clk = 0, rst = 1, host_write = 0;
  reg [2:0] host_region = 0;
  reg [21:0] host_address = 0;
  reg [31:0] host_data = 0;
  wire [31:0] host_read_data;
  wire busy;
  npu_core #(
    .ROWS(ROWS), .COLUMNS(COLUMNS), .VECTOR_LANES(VECTOR_LANES), .PAIRED(PAIRED), .INSTRUCTIONS(INSTRUCTIONS),
    .WEIGHT_ROWS(WEIGHT_ROWS), .ACTIVATION_VECTORS(ACTIVATION_VECTORS), .ACCUMULATOR_DEPTH(ACCUMULATOR_DEPTH),
    .PARAMETER_GROUPS(PARAMETER_GROUPS)
  ) core (
    .clk, .rst, .host_write, .host_region, .host_address, .host_data, .host_read_data, .busy);
  always #5 clk = !clk;

  reg [63:0] writes [0:65535];  // region, address, word
  reg [1023:0] file;
  integer count;
  task read(input [2:0] region, input integer address);
    begin
      host_region = region;
      host_address = 22'(address);
      repeat (5) @(negedge clk);
      $display("%h", host_read_data);
    end
  endtask
  initial begin
    if (!$value$plusargs("file=%s", file) || !$value$plusargs("count=%d", count)) $fatal(1, "file and count are missing");
    $readmemh(file, writes, 0, count - 1);
    repeat (16) @(negedge clk);
    rst = 0;
    host_write = 1;
    for (integer i = 0; i < count; i = i + 1) begin
      {host_region, host_address, host_data} = {writes[i][58:56], writes[i][53:32], writes[i][31:0]};
      @(negedge clk);
    end
    host_write = 0;
    for (integer cycle = 0; busy && cycle < 100000; cycle = cycle + 1) @(negedge clk);
    for (integer i = 0; i < WORDS; i = i + 1) read(3, i);
    for (integer i = 6; i < 13; i = i + 1) read(0, i);
    $finish;
  end
endmodule
`default_nettype wire
