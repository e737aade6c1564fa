// The core behind a serial line: COBS frames with a CRC32, two commands (write words, read words), one frame at a time.
//
// A frame that does not match its checksum is dropped in silence and the host sends it again. A write that comes twice
// (same sequence number as the frame before) is answered, and not done again: starting a program is such a write.
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
  localparam bit [7:0] WRITE = 2, READ = 3;
  localparam int HEADER_BYTES = 8, CHECKSUM_BYTES = 4;

  function automatic [31:0] crc32(input [31:0] sum, input [7:0] value);
    begin
      crc32 = sum ^ {24'b0, value};
      for (int i = 0; i < 8; i = i + 1) crc32 = crc32[0] ? (crc32 >> 1) ^ 32'hEDB88320 : crc32 >> 1;
    end
  endfunction

  wire received, may_send, line_quiet;
  wire [7:0] received_byte;
  reg send;
  reg [7:0] send_byte;
  npu_uart #(.CYCLES_PER_BIT(CYCLES_PER_BIT)) uart (
    .clk, .rst, .rx, .received, .received_byte, .tx, .may_send, .send, .send_byte, .quiet(line_quiet));

  // ---- frames in: COBS decoded into a buffer, with the running checksum
  reg [7:0] request [0:255];
  reg [8:0] request_length;
  reg [7:0] block_left;
  reg zero_due, damaged, frame;
  reg [31:0] request_sum;
  reg decoded;
  reg [7:0] decoded_byte;
  always_ff @(posedge clk) begin
    decoded <= 0;
    frame <= 0;
    if (received && received_byte != 0) begin
      if (block_left == 0) begin
        decoded <= zero_due;
        decoded_byte <= 0;
        block_left <= received_byte - 1;
        zero_due <= 1;
      end else begin
        decoded <= 1;
        decoded_byte <= received_byte;
        block_left <= block_left - 1;
      end
    end
    if (decoded) begin
      request[request_length[7:0]] <= decoded_byte;
      request_sum <= crc32(request_sum, decoded_byte);
      if (request_length[8]) damaged <= 1;
      else request_length <= request_length + 1;
    end
    if (rst || (received && received_byte == 0)) begin
      frame <= !rst && !damaged && block_left == 0 && request_sum == 32'hDEBB20E3
             && 32'(request_length) == HEADER_BYTES + CHECKSUM_BYTES + (request[1] == WRITE ? 4 * 32'(request[3]) : 0);
      request_length <= 0;
      request_sum <= 32'hFFFFFFFF;
      block_left <= 0;
      zero_due <= 0;
      damaged <= 0;
    end
  end

  // ---- what a frame asks for
  localparam bit [3:0] IDLE = 0, HEADER = 1, ANSWER = 2, NEXT = 3, FETCH = 4, STORE = 5, LOOK = 6, PUT_WORD = 7, SEAL = 8,
    SCAN = 9, CODE = 10, COPY = 11, FINISH = 12;
  reg [3:0] state;
  reg [7:0] at;             // in the request
  reg [2:0] step;
  reg [7:0] sequence_number, command, region, count, last_sequence;
  reg [31:0] address, word;
  reg repeated;
  (* ram_style = "distributed" *) reg [7:0] reply [0:255];  // read at two places in the cycle of the address
  reg [7:0] reply_length, block_start, block_end;
  reg [31:0] reply_sum, seal;
  reg host_write;
  wire [31:0] host_read_data;
  wire core_busy;
  wire [7:0] current = request[at];
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
    if (rst) begin
      state <= IDLE;
      last_sequence <= 0;
    end else case (state)
      IDLE: begin
        at <= 0;
        step <= 0;
        reply_length <= 0;
        reply_sum <= 32'hFFFFFFFF;
        if (frame) state <= HEADER;
      end
      HEADER: begin  // sequence, command, region, count, then the address, low byte first
        at <= at + 1;
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
            state <= NEXT;
          end
        endcase
      end
      NEXT:
        if (!host_ready) state <= NEXT;
        else if (count == 0) begin
          seal <= ~reply_sum;
          step <= 0;
          state <= SEAL;
        end else begin
          count <= count - 1;
          step <= 0;
          state <= command == WRITE ? FETCH : command == READ ? LOOK : NEXT;
        end
      FETCH: begin
        word <= {current, word[31:8]};
        at <= at + 1;
        step <= step + 1;
        if (step == 3) begin
          host_write <= !repeated;
          state <= STORE;
        end
      end
      STORE: begin  // the core takes the word in this cycle
        address <= address + 1;
        state <= NEXT;
      end
      LOOK: begin
        if (step != 5) step <= step + 1;
        else if (host_ready) begin
          word <= host_read_data;
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
      SCAN: // a block ends at a zero or with the reply
        if (block_end == reply_length || reply[block_end] == 0) state <= CODE;
        else block_end <= block_end + 1;
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
    .clk, .rst, .host_write, .host_read(state == LOOK && step == 0), .host_region(region[2:0]), .host_address(address[25:0]),
    .host_data(word), .host_read_data, .host_ready, .busy(core_busy), .memory_idle,
    .sdram_cke, .sdram_cs_n, .sdram_ras_n, .sdram_cas_n, .sdram_we_n, .sdram_ba, .sdram_a, .sdram_dq_out, .sdram_dq_drive, .sdram_dq_in);
  assign quiet = state == IDLE && line_quiet && !core_busy && memory_idle && !received && !decoded && !frame && !send;
  wire unused_bits = &{1'b0, region, address};
endmodule
`default_nettype wire
