// The core with its external memory: none, or a 16-bit SDR SDRAM (npu_sdram.sv) at the core's clock.
`default_nettype none
module npu_system #(
  parameter int ROWS = 16,
  parameter int COLUMNS = 16,
  parameter int VECTOR_LANES = 4,
  parameter int PAIRED = 0,
  parameter int MICROSCALING = 0,
  parameter int INSTRUCTIONS = 2048,
  parameter int WEIGHT_ROWS = 8192,
  parameter int ACTIVATION_VECTORS = 4096,
  parameter int ACCUMULATOR_DEPTH = 512,
  parameter int PARAMETER_GROUPS = 512,
  parameter int EXTERNAL = 0,
  parameter int POWER_UP_CYCLES = 20000,
  parameter int REFRESH_CYCLES = 450,
  parameter bit [63:0] PROFILE_HASH = 0
) (
  input  wire        clk,
  input  wire        rst,
  input  wire        host_write,
  input  wire        host_read,
  input  wire [2:0]  host_region,
  input  wire [25:0] host_address,
  input  wire [31:0] host_data,
  output wire [31:0] host_read_data,
  output wire        host_ready,
  output wire        busy,
  output wire        memory_idle,
  output wire        sdram_cke,
  output wire        sdram_cs_n,
  output wire        sdram_ras_n,
  output wire        sdram_cas_n,
  output wire        sdram_we_n,
  output wire [1:0]  sdram_ba,
  output wire [12:0] sdram_a,
  output wire [15:0] sdram_dq_out,
  output wire        sdram_dq_drive,
  input  wire [15:0] sdram_dq_in
);
  wire memory_restart, memory_request, memory_write, memory_ready, memory_done, memory_take, memory_valid;
  wire [25:0] memory_address;
  wire [8:0] memory_words;
  wire [31:0] memory_write_data, memory_read_data;
  npu_core #(
    .ROWS(ROWS), .COLUMNS(COLUMNS), .VECTOR_LANES(VECTOR_LANES), .PAIRED(PAIRED), .MICROSCALING(MICROSCALING),
    .INSTRUCTIONS(INSTRUCTIONS),
    .WEIGHT_ROWS(WEIGHT_ROWS), .ACTIVATION_VECTORS(ACTIVATION_VECTORS), .ACCUMULATOR_DEPTH(ACCUMULATOR_DEPTH),
    .PARAMETER_GROUPS(PARAMETER_GROUPS), .EXTERNAL(EXTERNAL), .PROFILE_HASH(PROFILE_HASH)
  ) core (
    .clk, .rst, .host_write, .host_read, .host_region, .host_address, .host_data, .host_read_data, .host_ready, .busy,
    .memory_restart, .memory_request, .memory_write, .memory_address, .memory_words, .memory_write_data,
    .memory_ready, .memory_idle, .memory_done, .memory_take, .memory_valid, .memory_read_data);
  generate
    if (EXTERNAL != 0) begin : g_sdram
      wire unused_bits = &{1'b0, memory_address};
      npu_sdram #(.POWER_UP_CYCLES(POWER_UP_CYCLES), .REFRESH_CYCLES(REFRESH_CYCLES)) sdram (
        .clk, .rst, .restart(memory_restart), .request(memory_request), .write(memory_write), .address(memory_address[22:0]),
        .words(memory_words), .ready(memory_ready), .idle(memory_idle), .done(memory_done), .take(memory_take),
        .write_data(memory_write_data), .valid(memory_valid), .read_data(memory_read_data),
        .sdram_cke, .sdram_cs_n, .sdram_ras_n, .sdram_cas_n, .sdram_we_n, .sdram_ba, .sdram_a, .sdram_dq_out, .sdram_dq_drive, .sdram_dq_in);
    end else begin : g_none
      assign {memory_ready, memory_done, memory_take, memory_valid, memory_idle} = 5'b00001;
      assign memory_read_data = 0;
      assign {sdram_cke, sdram_cs_n, sdram_ras_n, sdram_cas_n, sdram_we_n} = 5'b01111;
      assign {sdram_ba, sdram_a, sdram_dq_out, sdram_dq_drive} = 32'b0;
      wire unused_bits = &{1'b0, memory_restart, memory_request, memory_write, memory_address, memory_words, memory_write_data,
        sdram_dq_in, POWER_UP_CYCLES[0], REFRESH_CYCLES[0]};
    end
  endgenerate
endmodule
`default_nettype wire
