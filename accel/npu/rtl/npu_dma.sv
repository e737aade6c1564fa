// The DMA: a queue of transfers between the external memory and the memories of the NPU, one after another, in order.
//
// Words that come in go to program, weight and parameter memory as if the host wrote them; activations are collected into
// whole vectors, because their memory has no port to spare: the vector unit uses port B in two of every four cycles at most
// (docs/spec/npu.md, N164), so a vector waits two cycles at most for it, and no transfer ever waits for anybody else. While the
// core rests the host reads and writes single words through the same door.
`default_nettype none
`include "npu_isa.svh"
module npu_dma #(
  parameter int COLUMNS = 16
) (
  input  wire                 clk,
  input  wire                 rst,
  input  wire                 push,              // queue the transfer in `word`
  input  wire [127:0]         word,
  output reg  [4:0]           outstanding,       // transfers that are queued or under way
  output wire                 working,
  output wire                 rest,
  output wire                 host_ready,        // what the host asked for is done
  input  wire                 host_write,
  input  wire                 host_read,
  input  wire [25:0]          host_address,
  input  wire [31:0]          host_data,
  output reg  [31:0]          host_read_data,
  output wire                 fill,              // a word for the program, weight or parameter memory
  output wire [2:0]           fill_region,
  output wire [19:0]          fill_address,
  output wire [31:0]          fill_data,
  input  wire                 port_free,         // port B of the activation memory is free in this cycle
  output wire                 port_write,
  output wire [15:0]          port_address,
  output wire [COLUMNS*8-1:0] port_write_data,
  input  wire [COLUMNS*8-1:0] port_data,         // two cycles behind its address
  output wire                 memory_request,
  output wire                 memory_write,
  output wire [25:0]          memory_address,
  output wire [8:0]           memory_words,
  output wire [31:0]          memory_write_data,
  input  wire                 memory_ready,
  input  wire                 memory_done,
  input  wire                 memory_take,
  input  wire                 memory_valid,
  input  wire [31:0]          memory_read_data
);
  localparam int VECTOR_WORDS = COLUMNS / 4;
  localparam int VECTOR_BITS = $clog2(VECTOR_WORDS);
  localparam bit [2:0] ACTIVATIONS = 3;
  localparam int AHEAD = 7;  // cycles until the first vectors to store are at hand
  localparam int TAIL = 3;   // cycles until the last word is in its memory

  // ---- the queue
  reg [127:0] queue [0:15];
  reg [3:0] head, tail;
  wire [127:0] front = queue[head];
  wire start, finish;
  always_ff @(posedge clk) begin
    if (push) queue[tail] <= word;
    tail <= rst ? 0 : tail + 4'(push);
    head <= rst ? 0 : head + 4'(start);
    outstanding <= rst ? 0 : outstanding + 5'(push) - 5'(finish);
  end
  wire unused_bits = &{1'b0, front};

  // ---- transfer, run, burst
  localparam bit [2:0] REST = 0, AHEAD_OF_STORE = 1, REQUEST = 2, BURST = 3, LAST = 4, HOST = 5, HOST_BURST = 6;
  reg [2:0] state;
  reg [2:0] timer;
  reg store, host_writes;
  reg [2:0] region;
  reg [25:0] external, run_external;
  reg [19:0] local_at, run_local;
  reg [15:0] words, words_left;
  reg [11:0] runs_left;
  reg [23:0] external_pitch;
  reg [17:0] local_pitch;
  reg host_pending;
  reg [25:0] host_at;
  reg [31:0] host_word;
  // What comes next is worked out while a burst is under way, which takes several cycles at least: the words of the next burst
  // of this run (`burst`), where the next run begins, and the words of its first burst.
  reg [8:0] burst, next_run_burst;
  reg [25:0] next_external;
  reg [19:0] next_local;
  assign start = state == REST && head != tail;
  assign finish = state == LAST && timer == 0;
  assign working = state != REST;
  assign rest = state == REST && !host_pending;
  assign host_ready = !host_pending;
  wire next_run = state == BURST && memory_done && words_left == 0 && runs_left != 1;

  function automatic [8:0] up_to_page_end(input [15:0] wanted, input [7:0] place_in_page);
    reg [8:0] to_page_end;
    begin
      to_page_end = 9'd256 - {1'b0, place_in_page};
      up_to_page_end = wanted < 16'(to_page_end) ? wanted[8:0] : to_page_end;
    end
  endfunction

  always_ff @(posedge clk) begin
    timer <= timer - 1;
    next_external <= run_external + 26'(external_pitch);
    next_local <= run_local + 20'(local_pitch);
    next_run_burst <= up_to_page_end(words, next_external[7:0]);
    if (host_write || host_read) begin
      host_pending <= 1;
      host_writes <= host_write;
      host_at <= host_address;
      host_word <= host_data;
    end
    case (state)
      REST:
        if (start) begin
          store <= front[`NPU_DMA_STORE];
          region <= front[`NPU_DMA_REGION];
          external <= front[`NPU_DMA_EXTERNAL];
          run_external <= front[`NPU_DMA_EXTERNAL];
          run_local <= front[`NPU_DMA_LOCAL];
          words <= front[`NPU_DMA_WORDS];
          words_left <= front[`NPU_DMA_WORDS];
          burst <= up_to_page_end(front[`NPU_DMA_WORDS], front[`NPU_DMA_EXTERNAL_LOW +: 8]);
          runs_left <= front[`NPU_DMA_RUNS];
          external_pitch <= front[`NPU_DMA_EXTERNAL_PITCH];
          local_pitch <= front[`NPU_DMA_LOCAL_PITCH];
          timer <= 3'(AHEAD);
          state <= front[`NPU_DMA_STORE] ? AHEAD_OF_STORE : REQUEST;
        end else if (host_pending) state <= HOST;
      AHEAD_OF_STORE: if (timer == 0) state <= REQUEST;
      REQUEST: if (memory_ready) begin
        words_left <= words_left - 16'(burst);
        external <= external + 26'(burst);
        state <= BURST;
      end
      BURST: if (!memory_done) burst <= up_to_page_end(words_left, external[7:0]);
      else begin
        timer <= 3'(AHEAD);
        if (words_left != 0) state <= REQUEST;
        else if (next_run) begin
          runs_left <= runs_left - 1;
          words_left <= words;
          burst <= next_run_burst;
          external <= next_external;
          run_external <= next_external;
          run_local <= next_local;
          state <= store ? AHEAD_OF_STORE : REQUEST;
        end else begin
          timer <= 3'(TAIL);
          state <= LAST;
        end
      end
      LAST: if (timer == 0) state <= REST;
      HOST: if (memory_ready) state <= HOST_BURST;
      default: if (memory_done) begin
        host_pending <= 0;
        state <= REST;
      end
    endcase
    if (state == HOST_BURST && memory_valid) host_read_data <= memory_read_data;
    if (rst) begin
      state <= REST;
      host_pending <= 0;
    end
  end
  wire for_host = state == HOST || state == HOST_BURST;
  assign memory_request = state == REQUEST || state == HOST;
  assign memory_write = for_host ? host_writes : store;
  assign memory_address = for_host ? host_at : external;
  assign memory_words = for_host ? 9'd1 : burst;

  // ---- in: words to their memory, activations by the vector
  reg [COLUMNS*8-33:0] collected;
  reg [COLUMNS*8-1:0] whole;
  reg waiting;
  reg [15:0] whole_address;
  wire [COLUMNS*8-1:0] arrived = {memory_read_data, collected};
  wire arrives = memory_valid && state == BURST;
  wire completes = arrives && region == ACTIVATIONS && 32'(local_at[VECTOR_BITS-1:0]) == VECTOR_WORDS - 1;
  assign fill = arrives && region != ACTIVATIONS;
  assign fill_region = region;
  assign fill_address = local_at;
  assign fill_data = memory_read_data;
  always_ff @(posedge clk) begin
    if (start) local_at <= front[`NPU_DMA_LOCAL];
    else if (next_run) local_at <= next_local;
    else if (arrives) local_at <= local_at + 1;
    if (arrives) collected <= arrived[COLUMNS*8-1:32];
    if (completes) begin
      whole <= arrived;
      whole_address <= 16'(local_at >> VECTOR_BITS);
    end
    waiting <= !rst && (completes || (waiting && !port_free));
  end
  assign port_write = waiting && port_free;
  assign port_write_data = whole;

  // ---- out: up to four vectors ahead
  reg [COLUMNS*8-1:0] ahead [0:3];
  reg [1:0] ahead_in, ahead_out;
  reg [2:0] reserved;
  reg [2:1] fetching;
  reg [15:0] fetch_address, fetches_left;
  reg [VECTOR_BITS-1:0] out_place;
  wire begins = (start && front[`NPU_DMA_STORE]) || (next_run && store);
  wire fetch = state != REST && fetches_left != 0 && reserved < 4 && port_free;
  wire takes = memory_take && state == BURST;
  wire vector_out = takes && 32'(out_place) == VECTOR_WORDS - 1;
  wire [COLUMNS*8-1:0] first_ahead = ahead[ahead_out];
  always_ff @(posedge clk) begin
    if (begins) begin
      fetch_address <= 16'((start ? front[`NPU_DMA_LOCAL] : next_local) >> VECTOR_BITS);
      fetches_left <= (start ? front[`NPU_DMA_WORDS] : words) >> VECTOR_BITS;
    end else if (fetch) begin
      fetch_address <= fetch_address + 1;
      fetches_left <= fetches_left - 1;
    end
    fetching <= {fetching[1], fetch};
    if (fetching[2]) ahead[ahead_in] <= port_data;
    ahead_in <= ahead_in + 2'(fetching[2]);
    ahead_out <= ahead_out + 2'(vector_out);
    out_place <= out_place + VECTOR_BITS'(takes);
    reserved <= reserved + 3'(fetch) - 3'(vector_out);
    if (rst) begin
      fetches_left <= 0;
      fetching <= 0;
      ahead_in <= 0;
      ahead_out <= 0;
      out_place <= 0;
      reserved <= 0;
    end
  end
  assign port_address = waiting ? whole_address : fetch_address;
  assign memory_write_data = for_host ? host_word : first_ahead[32'(out_place)*32 +: 32];
endmodule
`default_nettype wire
