// A controller for a 16-bit SDR SDRAM with 4 banks, 8192 rows and 512 columns (32 MB), at up to 100 MHz with CAS latency 2.
//
// It does one burst at a time and leaves every row closed behind it, so that a burst takes the same number of cycles
// whatever came before (docs/spec/npu.md, N160-N164): slower than keeping rows open, by some ten cycles per burst, and exact
// to predict. A burst is 1 to 256 words of 32 bits within one row. Refreshes come between bursts, when they are due; those
// that a long burst holds up are made up for.
`default_nettype none
module npu_sdram #(
  parameter int POWER_UP_CYCLES = 20000,  // 200 us before the first command
  parameter int REFRESH_CYCLES = 450      // at most 7.8 us
) (
  input  wire        clk,
  input  wire        rst,
  input  wire        restart,     // begin counting towards the next refresh anew, with one refresh at once
  input  wire        request,     // held until `ready`, with what belongs to it
  input  wire        write,
  input  wire [22:0] address,     // in words
  input  wire [8:0]  words,       // 1 to 256
  output wire        ready,       // the request is taken in this cycle
  output wire        idle,        // nothing is under way
  output reg         done,        // one cycle, at the end of a burst
  output wire        take,        // the next word to write is taken in this cycle
  input  wire [31:0] write_data,
  output reg         valid,       // a word was read
  output reg  [31:0] read_data,
  output reg         sdram_cke,
  output reg         sdram_cs_n,
  output reg         sdram_ras_n,
  output reg         sdram_cas_n,
  output reg         sdram_we_n,
  output reg  [1:0]  sdram_ba,
  output reg  [12:0] sdram_a,
  output reg  [15:0] sdram_dq_out,
  output reg         sdram_dq_drive,
  input  wire [15:0] sdram_dq_in
);
  // Cycles between commands: row to column, precharge, row open, refresh, mode register, last write to precharge.
  localparam int RCD = 2, RP = 2, RAS = 5, RFC = 7, MRD = 2, WR = 2;
  localparam int READ_DEPTH = 4;  // from a READ command to its data in `captured`: the pins' registers and CAS latency 2
  localparam bit [12:0] MODE = 13'h220;  // single writes, CAS latency 2, sequential, bursts of one
  localparam bit [3:0] NOP = 4'b0111, ACTIVATE = 4'b0011, READ = 4'b0101, WRITE = 4'b0100, PRECHARGE = 4'b0010,
    REFRESH = 4'b0001, SET_MODE = 4'b0000;

  localparam bit [2:0] POWER_UP = 0, SET_UP = 1, REST = 2, OPEN = 3, MOVE = 4, CLOSE = 5, FINISH = 6, REFRESHING = 7;
  reg [2:0] state;
  reg [14:0] timer;
  reg [3:0] step;          // of the set-up: precharge, eight refreshes, mode
  reg writing;
  reg [1:0] bank;
  reg [8:0] column;
  reg [8:0] beats_left;
  reg [2:0] age;           // of the open row, up to RAS
  reg half;                // the second half of a word
  reg [15:0] high;

  // ---- when a refresh is due
  reg [14:0] refresh_timer;
  reg [3:0] owed;
  wire refreshing = state == REST && owed != 0;
  always_ff @(posedge clk) begin
    refresh_timer <= refresh_timer == 0 || restart ? 15'(REFRESH_CYCLES - 1) : refresh_timer - 1;
    if (rst || state == POWER_UP || state == SET_UP) begin
      refresh_timer <= 15'(REFRESH_CYCLES - 1);
      owed <= 0;
    end else if (restart) owed <= 1;
    else owed <= owed + 4'(refresh_timer == 0) - 4'(refreshing);
  end

  assign ready = state == REST && owed == 0 && request;
  assign idle = state == REST && owed == 0;
  assign take = state == MOVE && writing && !half;
  wire unused_words = &{1'b0, words[8]};
  wire [15:0] low_or_high = half ? high : write_data[15:0];

  task automatic command(input [3:0] what);
    {sdram_cs_n, sdram_ras_n, sdram_cas_n, sdram_we_n} <= what;
  endtask

  always_ff @(posedge clk) begin
    sdram_cke <= !rst;
    command(NOP);
    sdram_dq_drive <= 0;
    done <= 0;
    timer <= timer - 1;
    age <= age == 3'(RAS) ? age : age + 1;
    case (state)
      POWER_UP: if (timer == 0) begin
        command(PRECHARGE);
        sdram_a <= 13'h400;  // all banks
        timer <= 15'(RP - 1);
        step <= 0;
        state <= SET_UP;
      end
      SET_UP: if (timer == 0) begin
        step <= step + 1;
        if (step < 8) begin
          command(REFRESH);
          timer <= 15'(RFC - 1);
        end else if (step == 8) begin
          command(SET_MODE);
          sdram_ba <= 0;
          sdram_a <= MODE;
          timer <= 15'(MRD - 1);
        end else state <= REST;
      end
      REST:
        if (owed != 0) begin
          command(REFRESH);
          timer <= 15'(RFC - 2);
          state <= REFRESHING;
        end else if (request) begin
          command(ACTIVATE);
          sdram_ba <= address[9:8];
          sdram_a <= address[22:10];
          bank <= address[9:8];
          column <= {address[7:0], 1'b0};
          writing <= write;
          beats_left <= {words[7:0] - 8'd1, 1'b1};
          half <= 0;
          age <= 1;
          timer <= 15'(RCD - 2);
          state <= OPEN;
        end
      REFRESHING: if (timer == 0) state <= REST;
      OPEN: if (timer == 0) state <= MOVE;
      MOVE: begin
        command(writing ? WRITE : READ);
        sdram_ba <= bank;
        sdram_a <= {4'b0, column};
        sdram_dq_out <= low_or_high;
        sdram_dq_drive <= writing;
        high <= write_data[31:16];
        half <= !half;
        column <= column + 1;
        beats_left <= beats_left - 1;
        if (beats_left == 0) begin
          timer <= writing ? 15'(WR - 1) : 0;
          state <= CLOSE;
        end
      end
      CLOSE: if (timer == 0) begin
        timer <= 0;
        if (age == 3'(RAS)) begin
          command(PRECHARGE);
          sdram_ba <= bank;
          sdram_a <= 0;
          timer <= writing ? 15'(RP - 2) : 15'(READ_DEPTH - 1);  // the last word read is on its way for longer
          state <= FINISH;
        end
      end
      default: if (timer == 0) begin
        done <= 1;
        state <= REST;
      end
    endcase
    if (rst) begin
      state <= POWER_UP;
      timer <= 15'(POWER_UP_CYCLES);
    end
  end

  // ---- what is read, halfword by halfword
  reg [READ_DEPTH-1:0] coming;
  reg second;
  reg [15:0] captured;
  reg [15:0] low;
  always_ff @(posedge clk) begin
    coming <= rst ? 0 : {coming[READ_DEPTH-2:0], state == MOVE && !writing};
    captured <= sdram_dq_in;
    valid <= 0;
    if (coming[READ_DEPTH-1]) begin
      second <= !second;
      low <= captured;
      valid <= second;
      read_data <= {captured, low};
    end
    if (rst) second <= 0;
  end
endmodule
`default_nettype wire
