// The NPU: memories, sequencer, loader, array, vector unit, counters, and a word-wide port for the host.
//
// The sequencer takes three cycles per instruction and issues in order; loader, array and vector unit then work side by
// side. An instruction waits for its own unit; SYNC waits for the named ones; HALT for all of them. A core with external
// memory has a DMA too (npu_dma.sv); its port goes to a memory controller (npu_system.sv).
`default_nettype none
`include "npu_isa.svh"
module npu_core #(
  parameter int ROWS = 16,
  parameter int COLUMNS = 16,
  parameter int VECTOR_LANES = 4,
  parameter int PAIRED = 0,
  parameter int MICROSCALING = 0,    // 1: number format mxint8
  parameter int INSTRUCTIONS = 2048,
  parameter int WEIGHT_ROWS = 8192,
  parameter int ACTIVATION_VECTORS = 4096,
  parameter int ACCUMULATOR_DEPTH = 512,
  parameter int PARAMETER_GROUPS = 512,
  parameter int EXTERNAL = 0,        // 1: there is a memory behind the memory port
  parameter bit [63:0] PROFILE_HASH = 0
) (
  input  wire        clk,
  input  wire        rst,
  input  wire        host_write,
  input  wire        host_read,      // external memory only
  input  wire [2:0]  host_region,
  input  wire [25:0] host_address,   // in 32-bit words
  input  wire [31:0] host_data,
  output reg  [31:0] host_read_data, // four cycles behind region and address; of external memory when the host may go on
  output wire        host_ready,     // the external memory is done with what the host asked for
  output wire        busy,
  output wire        memory_restart, // a program starts
  output wire        memory_request,
  output wire        memory_write,
  output wire [25:0] memory_address, // in 32-bit words
  output wire [8:0]  memory_words,
  output wire [31:0] memory_write_data,
  input  wire        memory_ready,
  input  wire        memory_idle,
  input  wire        memory_done,
  input  wire        memory_take,
  input  wire        memory_valid,
  input  wire [31:0] memory_read_data
);
  localparam int REGISTERS = 0, PROGRAM = 1, WEIGHTS = 2, ACTIVATIONS = 3, PARAMETERS = 4, CONSTANTS = 5, TENSORS = 6;
  localparam int VECTOR_WORDS = COLUMNS / 4;
  localparam int VECTOR_BITS = $clog2(VECTOR_WORDS);
  localparam int ACTIVATION_BITS = $clog2(ACTIVATION_VECTORS);
  localparam int WEIGHT_BITS = $clog2(WEIGHT_ROWS);
  localparam int PARAMETER_BITS = $clog2(PARAMETER_GROUPS);
  localparam int INSTRUCTION_BITS = $clog2(INSTRUCTIONS);
  localparam int LANE_BITS = $clog2(VECTOR_LANES);
  localparam int ROW_BITS = $clog2(ROWS);

  // ---- host or DMA: which slice of which memory a word belongs to, one cycle later: the memories are all over the chip
  wire fill;
  wire [2:0] fill_region;
  wire [19:0] fill_address;
  wire [31:0] fill_data;
  reg [4:0] writing;
  reg [25:0] write_address;
  reg [31:0] write_data;
  always_ff @(posedge clk) begin
    writing <= fill ? 5'b1 << fill_region : host_write ? 5'b1 << host_region : 5'b0;
    write_address <= fill ? {6'b0, fill_address} : host_address;
    write_data <= fill ? fill_data : host_data;
  end
  wire unused_write = &{1'b0, write_address, writing[REGISTERS]};
  wire [VECTOR_WORDS-1:0] vector_slice =
    VECTOR_WORDS'(1) << (VECTOR_WORDS == 1 ? 32'd0 : 32'(write_address) % VECTOR_WORDS);
  localparam bit [VECTOR_WORDS-1:0] NO_SLICE = 0;
  wire [3:0] instruction_slice = 4'b1 << write_address[1:0];
  wire [VECTOR_LANES*3-1:0] parameter_slice;
  genvar slice;
  generate
    for (slice = 0; slice < VECTOR_LANES*3; slice = slice + 1) begin : g_slice
      assign parameter_slice[slice] = 32'(write_address[2 +: LANE_BITS]) == slice / 3 && 32'(write_address[1:0]) == slice % 3;
    end
  endgenerate

  // ---- program memory and sequencer
  localparam bit [2:0] STOPPED = 0, FETCH = 1, WAIT = 2, ISSUE = 3, WAKE = 4;
  reg [2:0] state;
  reg [INSTRUCTION_BITS-1:0] program_counter;
  reg done, failed;
  wire [127:0] coming;  // the word of the next cycle
  npu_ram #(.WIDTH(128), .DEPTH(INSTRUCTIONS), .REGISTERED(0)) program_memory (
    .clk, .write_enable(writing[PROGRAM] ? instruction_slice : 4'b0), .write_address(write_address[2 +: INSTRUCTION_BITS]),
    .write_data({4{write_data}}), .read_address(program_counter), .read_data(coming));

  // What can be said of a word is said with it: when it is there, all that is left is whether its unit is ready.
  reg [127:0] word;
  reg is_array, is_window, is_shape, is_loadw, for_vector, is_residual, is_repeat, is_dma, is_sync, is_halt;
  always_ff @(posedge clk) begin
    word <= coming;
    is_array <= coming[3:0] == `NPU_OP_GEMM || coming[3:0] == `NPU_OP_DW || coming[3:0] == `NPU_OP_POOL;
    is_window <= coming[3:0] == `NPU_OP_DW;
    is_shape <= coming[3:0] == `NPU_OP_SHAPE;
    is_loadw <= coming[3:0] == `NPU_OP_LOADW;
    for_vector <= coming[3:0] == `NPU_OP_RESIDUAL || coming[3:0] == `NPU_OP_VEC;
    is_residual <= coming[3:0] == `NPU_OP_RESIDUAL;
    is_repeat <= coming[3:0] == `NPU_OP_REPEAT;
    is_dma <= coming[3:0] == `NPU_OP_DMA && EXTERNAL != 0;
    is_sync <= coming[3:0] == `NPU_OP_SYNC;
    is_halt <= coming[3:0] == `NPU_OP_HALT;
  end

  wire loader_busy, array_ready, array_busy, array_visit, vector_busy, vector_working;
  wire weights_rest = !(word[`NPU_ARRAY_SWAP] && loader_busy);
  wire named_rest = !(word[`NPU_SYNC_LOADER] && loader_busy) && !(word[`NPU_SYNC_ARRAY] && array_busy)
                  && !(word[`NPU_SYNC_VECTOR] && vector_busy)
                  && !(word[`NPU_SYNC_TRANSFERS] && outstanding > {1'b0, word[`NPU_SYNC_PENDING]});
  wire [4:0] outstanding;
  wire all_rest = !loader_busy && !array_busy && !vector_busy && outstanding == 0;
  wire is_known = is_array || is_shape || is_loadw || for_vector || is_repeat || is_dma || is_sync || is_halt;
  wire issuing = state == ISSUE;
  wire starts_loader = issuing && is_loadw && !loader_busy;
  wire sets_shape = issuing && is_shape && array_ready;
  wire starts_array = issuing && is_array && array_ready && weights_rest;
  wire sets_residual = issuing && is_residual && !vector_busy;
  wire starts_vector = issuing && for_vector && !is_residual && !vector_busy;
  wire queues_transfer = issuing && is_dma && outstanding < 16;
  wire issue = issuing && ((is_array && array_ready && weights_rest) || (is_shape && array_ready) || (is_loadw && !loader_busy)
    || (for_vector && !vector_busy) || (is_dma && outstanding < 16) || is_repeat || (is_sync && named_rest) || (is_halt && all_rest));

  // What an instruction waits for: loader, array, vector, all that SYNC or HALT name, room in the queue of transfers.
  localparam bit [2:0] FOR_LOADER = 0, FOR_ARRAY = 1, FOR_VECTOR = 2, FOR_SYNC = 3, FOR_TRANSFER = 4;
  reg waited;  // in the cycle before
  reg [2:0] waited_for;
  always_ff @(posedge clk) begin
    waited <= issuing && is_known && !issue;
    waited_for <= is_loadw || (is_array && array_ready) ? FOR_LOADER : is_shape || is_array ? FOR_ARRAY
      : for_vector ? FOR_VECTOR : is_dma ? FOR_TRANSFER : FOR_SYNC;
  end

  // ---- REPEAT: a LOADW and an array pass again and again, with their addresses stepping on
  reg again;  // the next array pass is not the last of its repetitions
  reg [11:0] repeats_left;
  reg [INSTRUCTION_BITS-1:0] repeat_at;
  reg [7:0] address_step;
  reg [15:0] base_step;
  reg [19:0] address_offset;
  reg [15:0] base_offset;
  reg [15:0] array_base;    // the word's address and the offset: an offset changes two cycles before the next word comes
  reg [19:0] load_address;
  wire [127:0] array_word = {word[127:`NPU_ARRAY_BASE_LOW+16], array_base, word[3:0]};
  wire goes_back = is_array && again;
  wire unused_load = &{1'b0, load_address, word[`NPU_ARRAY_BASE]};
  always_ff @(posedge clk) begin
    array_base <= coming[`NPU_ARRAY_BASE] + base_offset;
    load_address <= coming[`NPU_LOADW_ADDRESS] + address_offset;
    if (issuing && is_repeat) begin
      again <= word[`NPU_REPEAT_COUNT] != 1;
      repeats_left <= word[`NPU_REPEAT_COUNT];
      repeat_at <= program_counter + 1;
      address_step <= word[`NPU_REPEAT_ADDRESS_STEP];
      base_step <= word[`NPU_REPEAT_BASE_STEP];
    end else if (starts_array) begin
      again <= again && repeats_left != 2;
      repeats_left <= repeats_left - 1;
      address_offset <= again ? address_offset + 20'(address_step) : 0;
      base_offset <= again ? base_offset + base_step : 0;
    end
    if (rst || state == STOPPED) begin
      again <= 0;
      address_offset <= 0;
      base_offset <= 0;
    end
  end
  wire host_starts = host_write && 32'(host_region) == REGISTERS && host_address == 4 && host_data[0] && state == STOPPED;
  wire transfers_work, transfers_rest;
  // Every run begins with all weights zero and the memory at rest, so that it gives the same results in the same cycles.
  wire wakes = state == WAKE && transfers_rest && memory_idle && !loader_busy;
  assign memory_restart = wakes;
  always_ff @(posedge clk)
    if (rst) begin
      state <= STOPPED;
      done <= 0;
      failed <= 0;
    end else case (state)
      STOPPED: if (host_starts) begin
        state <= WAKE;
        program_counter <= 0;
        done <= 0;
        failed <= 0;
      end
      WAKE: if (wakes) state <= FETCH;
      FETCH: state <= WAIT;
      WAIT: state <= ISSUE;
      default: begin
        if (!is_known || (issue && is_halt)) begin
          state <= STOPPED;
          done <= is_known;
          failed <= !is_known;
        end else if (issue) begin
          state <= FETCH;
          program_counter <= goes_back ? repeat_at : program_counter + 1;
        end
      end
    endcase
  assign busy = state != STOPPED;

  // ---- counters: cycles, visits, vector cycles, transfer cycles, and the cycles that an instruction waited, by what for
  reg [31:0] cycles, visits, vector_cycles, transfer_cycles, stalls [0:4];
  always_ff @(posedge clk)
    if (host_starts) begin
      cycles <= 0;
      visits <= 0;
      vector_cycles <= 0;
      transfer_cycles <= 0;
      for (int i = 0; i < 5; i = i + 1) stalls[i] <= 0;
    end else if (busy && state != WAKE) begin
      cycles <= cycles + 1;
      visits <= visits + 32'(array_visit);
      vector_cycles <= vector_cycles + 32'(vector_working);
      transfer_cycles <= transfer_cycles + 32'(transfers_work);
      for (int i = 0; i < 5; i = i + 1)
        if (waited && waited_for == 3'(i)) stalls[i] <= stalls[i] + 1;
    end

  // ---- loader: weight rows from memory into the shadow set; in mxint8 the shifts of all rows come first. Before a run it loads
  // zeros into all rows.
  localparam int SHIFT_ROWS = MICROSCALING != 0 ? ROWS / COLUMNS : 0;
  reg loading, blanking, blanking_1;
  reg [3:0] shift_rows_left;
  reg [2:1] row_shifts;
  reg [WEIGHT_BITS-1:0] weight_address;
  reg [ROW_BITS-1:0] weight_row, weight_row_1, weight_row_2;
  reg [7:0] rows_left;
  reg [2:1] row_valid;
  wire [COLUMNS*8-1:0] weight_fetched;
  reg [COLUMNS*8-1:0] weight_data;
  always_ff @(posedge clk) begin
    if (host_starts) begin
      weight_row <= 0;
      shift_rows_left <= 0;
      blanking <= 1;
    end else if (blanking) begin
      weight_row <= weight_row + 1;
      blanking <= 32'(weight_row) != ROWS - 1;
    end else if (starts_loader) begin
      weight_address <= load_address[WEIGHT_BITS-1:0];
      weight_row <= 0;
      rows_left <= word[`NPU_LOADW_ROWS];
      shift_rows_left <= 4'(SHIFT_ROWS);
      loading <= 1;
    end else if (loading) begin
      weight_address <= weight_address + 1;
      if (shift_rows_left != 0) begin
        shift_rows_left <= shift_rows_left - 1;
        weight_row <= shift_rows_left == 1 ? 0 : weight_row + 1;
      end else begin
        weight_row <= weight_row + 1;
        rows_left <= rows_left - 1;
        if (rows_left == 1) loading <= 0;
      end
    end
    row_shifts <= {row_shifts[1], shift_rows_left != 0};
    row_valid <= {row_valid[1], loading || blanking};
    blanking_1 <= blanking;
    weight_data <= blanking_1 ? 0 : weight_fetched;
    weight_row_1 <= weight_row;
    weight_row_2 <= weight_row_1;
    if (rst) begin
      loading <= 0;
      blanking <= 0;
      row_valid <= 0;
    end
  end
  assign loader_busy = loading || blanking || row_valid != 0;
  npu_ram #(.WIDTH(COLUMNS*8), .DEPTH(WEIGHT_ROWS), .REGISTERED(0)) weight_memory (
    .clk, .write_enable(writing[WEIGHTS] ? vector_slice : NO_SLICE), .write_address(write_address[VECTOR_BITS +: WEIGHT_BITS]),
    .write_data({VECTOR_WORDS{write_data}}), .read_address(weight_address), .read_data(weight_fetched));

  // ---- units
  wire [15:0] array_address, vector_address, parameter_address;
  wire [COLUMNS*8-1:0] array_activation, vector_activation, vector_result;
  wire [12:0] accumulator_address;
  wire [ROWS*32-1:0] accumulator_data;
  wire [VECTOR_LANES*96-1:0] parameter_data;
  wire vector_write, vector_used;
  wire unused_bits = &{1'b0, array_address, vector_address, parameter_address, port_address, vector_used, is_outside};
  npu_array #(
    .ROWS(ROWS), .COLUMNS(COLUMNS), .PAIRED(PAIRED), .MICROSCALING(MICROSCALING), .ACCUMULATOR_DEPTH(ACCUMULATOR_DEPTH)
  ) array (
    .clk, .rst, .renew_weights(wakes), .set_shape(sets_shape), .start(starts_array), .is_window, .word(array_word),
    .ready(array_ready), .busy(array_busy), .visit(array_visit),
    .activation_address(array_address), .activation(array_activation),
    .weight_write(row_valid[2] && !row_shifts[2]), .shift_write(row_valid[2] && row_shifts[2]), .weight_row(weight_row_2),
    .weight_data,
    .vector_address(accumulator_address), .vector_data(accumulator_data));
  npu_vector #(.ROWS(ROWS), .COLUMNS(COLUMNS), .LANES(VECTOR_LANES)) vector (
    .clk, .rst, .set_residual(sets_residual), .start(starts_vector), .word,
    .busy(vector_busy), .working(vector_working),
    .accumulator_address, .accumulator_data, .parameter_address, .parameter_data,
    .activation_address(vector_address), .activation_used(vector_used), .activation_write(vector_write),
    .activation_write_data(vector_result),
    .activation_data(vector_activation));
  npu_ram #(.WIDTH(VECTOR_LANES*96), .DEPTH(PARAMETER_GROUPS)) parameter_memory (
    .clk, .write_enable(writing[PARAMETERS] ? parameter_slice : {(VECTOR_LANES*3){1'b0}}),
    .write_address(write_address[2 + LANE_BITS +: PARAMETER_BITS]), .write_data({(VECTOR_LANES*3){write_data}}),
    .read_address(parameter_address[PARAMETER_BITS-1:0]), .read_data(parameter_data));

  // ---- transfers
  wire port_write;
  wire [15:0] port_address;
  wire [COLUMNS*8-1:0] port_write_data;
  wire [31:0] external_word;
  wire is_outside = 32'(host_region) == CONSTANTS || 32'(host_region) == TENSORS;  // two regions, one memory
  generate
    if (EXTERNAL != 0) begin : g_dma
      npu_dma #(.COLUMNS(COLUMNS)) dma (
        .clk, .rst, .push(queues_transfer), .word, .outstanding, .working(transfers_work), .rest(transfers_rest),
        .host_ready,
        .host_write(host_write && is_outside && !busy),
        .host_read(host_read && is_outside && !busy),
        .host_address, .host_data, .host_read_data(external_word),
        .fill, .fill_region, .fill_address, .fill_data,
        .port_free(!vector_used), .port_write, .port_address, .port_write_data, .port_data(vector_activation),
        .memory_request, .memory_write, .memory_address, .memory_words, .memory_write_data,
        .memory_ready, .memory_done, .memory_take, .memory_valid, .memory_read_data);
    end else begin : g_no_dma
      wire unused_queue = queues_transfer;
      assign outstanding = 0;
      assign {transfers_work, transfers_rest, host_ready, fill, port_write, memory_request, memory_write} = 7'b0110000;
      assign fill_region = 0;
      assign fill_address = 0;
      assign fill_data = 0;
      assign port_address = 0;
      assign port_write_data = 0;
      assign external_word = 0;
      assign memory_address = 0;
      assign memory_words = 0;
      assign memory_write_data = 0;
      wire unused_memory = &{1'b0, host_read, memory_ready, memory_done, memory_take, memory_valid, memory_read_data};
    end
  endgenerate

  // ---- activation memory: the array reads on port A; port B is the vector unit's, then the DMA's, and the host's while all rests
  npu_ram_shared #(.WIDTH(COLUMNS*8), .DEPTH(ACTIVATION_VECTORS)) activation_memory (
    .clk, .a_address(array_address[ACTIVATION_BITS-1:0]), .a_data(array_activation),
    .b_write_enable(busy ? {VECTOR_WORDS{vector_write || port_write}} : writing[ACTIVATIONS] ? vector_slice : NO_SLICE),
    .b_address(!busy ? write_address[VECTOR_BITS +: ACTIVATION_BITS]
               : EXTERNAL == 0 || vector_used ? vector_address[ACTIVATION_BITS-1:0] : port_address[ACTIVATION_BITS-1:0]),
    .b_write_data(!busy ? {VECTOR_WORDS{write_data}} : port_write ? port_write_data : vector_result),
    .b_data(vector_activation));

  // ---- what the host reads
  reg [3:0] register_number;
  reg [31:0] register_value, register_2, register_3;
  reg [2:0] region_1, region_2, region_3;
  reg [31:0] word_2, word_3;
  always_comb
    case (register_number)
      0: register_value = 32'h31505745;  // "EWP1"
      1: register_value = {8'(ROWS), 8'(COLUMNS), 8'(VECTOR_LANES), 8'(PAIRED)};
      2: register_value = PROFILE_HASH[31:0];
      3: register_value = PROFILE_HASH[63:32];
      5: register_value = {29'b0, failed, done, busy};
      6: register_value = cycles;
      7: register_value = visits;
      8: register_value = vector_cycles;
      9: register_value = stalls[FOR_LOADER];
      10: register_value = stalls[FOR_ARRAY];
      11: register_value = stalls[FOR_VECTOR];
      12: register_value = stalls[FOR_SYNC];
      13: register_value = stalls[FOR_TRANSFER];
      14: register_value = transfer_cycles;
      default: register_value = 0;
    endcase
  always_ff @(posedge clk) begin
    region_1 <= host_region;
    register_number <= host_address[3:0];
    register_2 <= register_value;
    region_2 <= region_1;
    word_2 <= VECTOR_WORDS == 1 ? 0 : 32'(write_address) % VECTOR_WORDS;
    register_3 <= register_2;
    region_3 <= region_2;
    word_3 <= word_2;
    host_read_data <= 32'(region_3) == ACTIVATIONS ? vector_activation[word_3*32 +: 32]
                    : 32'(region_3) == CONSTANTS || 32'(region_3) == TENSORS ? external_word : register_3;
  end
endmodule
`default_nettype wire
