// A host for the core in an event-driven simulator: it plays a list of writes, starts the program, waits for its end, and
// prints the first vectors of the activation memory and the counters, one word a line.
`default_nettype none
module icarus_bench #(
  parameter int ROWS = 4, COLUMNS = 4, VECTOR_LANES = 2, PAIRED = 0, MICROSCALING = 0, INSTRUCTIONS = 1024,
  parameter int WEIGHT_ROWS = 4096, ACTIVATION_VECTORS = 4096, ACCUMULATOR_DEPTH = 256, PARAMETER_GROUPS = 512,
  parameter int EXTERNAL = 0, POWER_UP_CYCLES = 100, REFRESH_CYCLES = 400, WORDS = 16
);
  reg clk = 0, rst = 1, host_write = 0;
  reg [2:0] host_region = 0;
  reg [25:0] host_address = 0;
  reg [31:0] host_data = 0;
  wire [31:0] host_read_data;
  wire busy;
  npu_system #(
    .ROWS(ROWS), .COLUMNS(COLUMNS), .VECTOR_LANES(VECTOR_LANES), .PAIRED(PAIRED), .MICROSCALING(MICROSCALING),
    .INSTRUCTIONS(INSTRUCTIONS), .WEIGHT_ROWS(WEIGHT_ROWS), .ACTIVATION_VECTORS(ACTIVATION_VECTORS),
    .ACCUMULATOR_DEPTH(ACCUMULATOR_DEPTH), .PARAMETER_GROUPS(PARAMETER_GROUPS), .EXTERNAL(EXTERNAL),
    .POWER_UP_CYCLES(POWER_UP_CYCLES), .REFRESH_CYCLES(REFRESH_CYCLES)
  ) system (
    .clk, .rst, .host_write, .host_read(1'b0), .host_region, .host_address, .host_data, .host_read_data, .host_ready(), .busy,
    .memory_idle(), .sdram_cke(), .sdram_cs_n(), .sdram_ras_n(), .sdram_cas_n(), .sdram_we_n(), .sdram_ba(), .sdram_a(),
    .sdram_dq_out(), .sdram_dq_drive(), .sdram_dq_in(16'b0));
  always #5 clk = !clk;

  reg [63:0] writes [0:65535];  // region, address, word
  reg [1023:0] file;
  integer count;
  task read(input [2:0] region, input integer address);
    begin
      host_region = region;
      host_address = 26'(address);
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
      {host_region, host_address, host_data} = {writes[i][58:56], 26'(writes[i][55:32]), writes[i][31:0]};
      @(negedge clk);
    end
    host_write = 0;
    for (integer cycle = 0; busy && cycle < 100000; cycle = cycle + 1) @(negedge clk);
    for (integer i = 0; i < WORDS; i = i + 1) read(3, i);
    for (integer i = 6; i < 15; i = i + 1) read(0, i);
    $finish;
  end
endmodule
`default_nettype wire
