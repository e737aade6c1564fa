// The core behind a serial line: write words, read words, run what was uploaded; each request is answered (docs/spec/npu.md, N100).
//
// Frames wait in npu_frames. The memories of a program take words in order only and npu_uploads keeps their count and CRC32, so
// that an upload goes on where it broke off, and a program runs only when all of it is there. A RUN that comes twice (same
// sequence number as the frame before) is answered, and not done again.
`default_nettype none
module npu_board #(
  parameter int CYCLES_PER_BIT = 20,
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
  input  wire clk,
  input  wire rst,
  input  wire rx,
  output wire tx,
  output reg [15:0] cycles_per_bit,  // the speed of the line now
  output wire quiet,  // nothing is under way; a simulation may sleep
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
  localparam bit [7:0] WRITE = 2, READ = 3, RUN = 4;
  localparam bit [7:0] REGISTERS = 0, ACTIVATIONS = 3, TENSORS = 6, LINK = 7;
  localparam bit [31:0] RESET = 8, SPEED = 9;  // in LINK; 0 to 7 let the upload of a region begin anew
  localparam bit [31:0] CONTROL = 4;           // in REGISTERS
  localparam bit [31:0] PROTOCOL = 32'h45574C02;
  localparam bit [3:0] PATIENCE = 8;   // spoilt bytes or frames in a row until the line is taken to have another speed
  localparam bit [15:0] FASTEST = 4;

  function automatic [31:0] crc32(input [31:0] sum, input [7:0] value);
    begin
      crc32 = sum ^ {24'b0, value};
      for (int i = 0; i < 8; i = i + 1) crc32 = crc32[0] ? (crc32 >> 1) ^ 32'hEDB88320 : crc32 >> 1;
    end
  endfunction

  wire received, broken, may_send, line_quiet, frames_quiet, waiting, good, bad;
  wire [7:0] received_byte, current;
  wire [31:0] dropped;
  reg send, finished;
  reg [7:0] send_byte;
  npu_uart uart (
    .clk, .rst, .cycles_per_bit, .rx, .received, .broken, .received_byte, .tx, .may_send, .send, .send_byte,
    .quiet(line_quiet));
  localparam bit [3:0] IDLE = 0, HEADER = 1, ANSWER = 2, NEXT = 3, FETCH = 4, STORE = 5, LOOK = 6, PUT_WORD = 7, SEAL = 8,
    SCAN = 9, CODE = 10, COPY = 11, FINISH = 12, TELL = 13, CLOSE = 14;
  reg [3:0] state;
  reg [7:0] at;             // in the request
  wire [7:0] at_next = state == IDLE ? 8'd0 : state == HEADER || state == FETCH ? at + 8'd1 : at;
  npu_frames #(.FIRST_COMMAND(WRITE), .READ(READ), .LAST_COMMAND(RUN)) frames (
    .clk, .rst, .received, .received_byte, .waiting, .next_at(at_next), .current, .finished, .good, .bad, .dropped,
    .quiet(frames_quiet));

  // ---- the speed changes behind an answer, and goes back to the first one when only noise comes
  reg [3:0] noise;
  reg [15:0] speed_due;  // 0: none
  always_ff @(posedge clk) begin
    if (rst || good || noise == PATIENCE) noise <= 0;
    else if (broken || bad) noise <= noise + 1;
    if (rst || noise == PATIENCE) cycles_per_bit <= 16'(CYCLES_PER_BIT);
    else if (finished && speed_due != 0) cycles_per_bit <= speed_due;
  end

  // ---- what a frame asks for
  always_ff @(posedge clk) at <= at_next;
  reg [2:0] step;
  reg [7:0] sequence_number, command, region, count, last_sequence;
  reg [31:0] address, word;
  reg repeated, told;
  (* ram_style = "distributed" *) reg [7:0] reply [0:255];  // read at two places in the cycle of the address
  reg [7:0] reply_length, block_start, block_end;
  reg block_ends;
  reg [31:0] reply_sum, seal;
  reg host_write;
  wire [31:0] host_read_data;
  wire core_busy;
  reg [3:0] core_reset;
  reg system_rst = 1;  // so that nothing moves before the first reset has come through it

  // ---- what was uploaded, and whether it is what RUN names
  reg accepted;             // the words of this write are taken
  reg confirmed, second;    // RUN: all so far agrees; the second word of a pair is next
  reg agrees, compared;     // RUN: the second word of a pair, one cycle after it was there
  reg [28:0] named;         // RUN: region (3), words (26)
  reg [31:0] new_sum;
  reg begins;
  wire [25:0] upload_next;
  wire [31:0] upload_sum;
  reg writes, reads, runs, is_upload;  // of `command` and `region`, which the header leaves alone for some cycles
  always_ff @(posedge clk) begin
    writes <= command == WRITE;
    reads <= command == READ;
    runs <= command == RUN;
    is_upload <= region != REGISTERS && region != ACTIVATIONS && region != TENSORS && region < LINK;
  end
  wire [2:0] upload_region = runs ? named[28:26] : region == LINK ? address[2:0] : region[2:0];
  wire store = state == NEXT && count == 0 && !told && writes && is_upload && accepted;
  npu_uploads uploads (
    .clk, .rst(system_rst), .region(upload_region), .next(upload_next), .sum(upload_sum), .begins, .store,
    .new_next(address[25:0]), .new_sum);
  wire [31:0] link_word = address[4] ? ~upload_sum : address[3] ? 32'(upload_next)
    : address[1] ? (address[0] ? 32'(CYCLES_PER_BIT) : dropped) : address[0] ? 32'(cycles_per_bit) : PROTOCOL;

  task automatic put(input [7:0] value);
    begin
      reply[reply_length] <= value;
      reply_length <= reply_length + 1;
      reply_sum <= crc32(reply_sum, value);
    end
  endtask

  always_ff @(posedge clk) begin
    host_write <= 0;
    send <= 0;
    finished <= 0;
    begins <= 0;
    if (core_reset != 0) core_reset <= core_reset - 1;
    system_rst <= rst || core_reset != 0;
    block_ends <= block_end == reply_length || reply[block_end] == 0;
    agrees <= upload_next == named[25:0] && ~upload_sum == word;
    compared <= 0;
    if (compared && !agrees) confirmed <= 0;
    if (rst) begin
      state <= IDLE;
      last_sequence <= 0;
      core_reset <= 0;
      speed_due <= 0;
    end else case (state)
      IDLE: begin
        step <= 0;
        told <= 0;
        second <= 0;
        reply_length <= 0;
        reply_sum <= 32'hFFFFFFFF;
        if (finished) speed_due <= 0;
        else if (waiting) state <= HEADER;
      end
      HEADER: begin  // sequence, command, region, count, then the address, low byte first
        step <= step + 1;
        case (step)
          0: sequence_number <= current;
          1: command <= current;
          2: region <= current;
          3: count <= current;
          default: address <= {current, address[31:8]};
        endcase
        if (step == 7) state <= ANSWER;
      end
      ANSWER: begin
        step <= step + 1;
        case (step)
          0: put(sequence_number);
          1: put(command | 8'h80);
          2: put(region);
          default: begin
            put(count);
            step <= 0;
            repeated <= sequence_number == last_sequence;
            last_sequence <= sequence_number;
            accepted <= region == ACTIVATIONS || region == TENSORS || (is_upload && address == 32'(upload_next));
            new_sum <= upload_sum;
            confirmed <= count != 0 && !count[0];  // pairs
            state <= NEXT;
          end
        endcase
      end
      NEXT: if (host_ready) begin
        step <= 0;
        if (count != 0) begin
          count <= count - 1;
          state <= reads ? LOOK : FETCH;
        end else if (reads || told) begin
          seal <= ~reply_sum;
          state <= SEAL;
        end else state <= TELL;
      end
      FETCH: begin
        word <= {current, word[31:8]};
        new_sum <= crc32(new_sum, current);
        step <= step + 1;
        if (step == 3) begin
          host_write <= writes && accepted;
          state <= STORE;
        end
      end
      STORE: begin  // the core takes the word in this cycle
        if (writes && region != LINK) address <= address + 1;
        if (writes && region == LINK) begin
          begins <= address < RESET;
          if (address == RESET) core_reset <= 15;
          if (address == SPEED && word[15:0] >= FASTEST) speed_due <= word[15:0];
        end
        if (runs) begin
          second <= !second;
          if (!second) named <= word[28:0];
          compared <= second;
        end
        state <= NEXT;
      end
      // One word: of a write, how much was uploaded (two cycles after that has changed); of a run, whether it was started, and
      // why not.
      TELL: if (step != 2) step <= step + 1;
      else begin
        step <= 0;
        told <= 1;
        word <= is_upload ? 32'(upload_next) : 0;
        if (runs) begin
          word <= {30'b0, core_busy && !repeated, confirmed};
          region <= REGISTERS;
          address <= CONTROL;
          host_write <= confirmed && !repeated && !core_busy;
        end
        state <= PUT_WORD;
      end
      LOOK: begin
        if (step != 5) step <= step + 1;
        else if (host_ready) begin
          word <= region == LINK ? link_word : host_read_data;
          step <= 0;
          state <= PUT_WORD;
        end
      end
      PUT_WORD: begin
        put(word[7:0]);
        word <= word >> 8;
        step <= step + 1;
        if (step == 3) begin
          address <= address + 1;
          state <= NEXT;
        end
      end
      SEAL: begin
        put(seal[7:0]);
        seal <= seal >> 8;
        step <= step + 1;
        if (step == 3) begin
          block_start <= 0;
          block_end <= 0;
          state <= SCAN;
        end
      end
      SCAN: begin  // a block ends at a zero or with the reply; each byte is looked at in one cycle and judged in the next
        step <= step + 1;
        if (step[0] && block_ends) state <= CODE;
        else if (step[0]) block_end <= block_end + 1;
      end
      CODE: if (may_send) begin
        send <= 1;
        send_byte <= block_end - block_start + 1;
        state <= COPY;
      end
      COPY:
        if (block_start != block_end) begin
          if (may_send) begin
            send <= 1;
            send_byte <= reply[block_start];
            block_start <= block_start + 1;
          end
        end else if (block_end == reply_length) state <= FINISH;
        else begin
          block_start <= block_end + 1;
          block_end <= block_end + 1;
          state <= SCAN;
        end
      FINISH: if (may_send) begin
        send <= 1;
        send_byte <= 0;
        state <= CLOSE;
      end
      CLOSE: if (speed_due == 0 || (may_send && !send)) begin  // the last byte leaves at the old speed
        finished <= 1;
        state <= IDLE;
      end
      default: state <= IDLE;
    endcase
  end

  wire host_ready, memory_idle;
  npu_system #(
    .ROWS(ROWS), .COLUMNS(COLUMNS), .VECTOR_LANES(VECTOR_LANES), .PAIRED(PAIRED), .MICROSCALING(MICROSCALING),
    .INSTRUCTIONS(INSTRUCTIONS),
    .WEIGHT_ROWS(WEIGHT_ROWS), .ACTIVATION_VECTORS(ACTIVATION_VECTORS), .ACCUMULATOR_DEPTH(ACCUMULATOR_DEPTH),
    .PARAMETER_GROUPS(PARAMETER_GROUPS), .EXTERNAL(EXTERNAL), .POWER_UP_CYCLES(POWER_UP_CYCLES),
    .REFRESH_CYCLES(REFRESH_CYCLES), .PROFILE_HASH(PROFILE_HASH)
  ) system (
    .clk, .rst(system_rst), .host_write, .host_read(state == LOOK && step == 0), .host_region(region[2:0]),
    .host_address(address[25:0]), .host_data(word), .host_read_data, .host_ready, .busy(core_busy), .memory_idle,
    .sdram_cke, .sdram_cs_n, .sdram_ras_n, .sdram_cas_n, .sdram_we_n, .sdram_ba, .sdram_a, .sdram_dq_out, .sdram_dq_drive, .sdram_dq_in);
  assign quiet = state == IDLE && line_quiet && frames_quiet && !core_busy && memory_idle && !finished && !send;
  wire unused_bits = &{1'b0, region, address};
endmodule
`default_nettype wire
