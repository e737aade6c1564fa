// Frames from the line into slots: COBS decoded, checksum and length checked; what is not whole is dropped in silence.
//
// Eight slots, so that a host may have several requests under way. The reader sees the byte at {oldest slot, next_at} one cycle
// later, and frees the slot with `finished`.
`default_nettype none
module npu_frames #(
  parameter bit [7:0] FIRST_COMMAND = 2,
  parameter bit [7:0] READ = 3,
  parameter bit [7:0] LAST_COMMAND = 4
) (
  input  wire       clk,
  input  wire       rst,
  input  wire       received,
  input  wire [7:0] received_byte,
  output wire       waiting,   // a frame is there
  input  wire [7:0] next_at,
  output reg  [7:0] current,
  input  wire       finished,
  output wire       good,      // for one cycle: a whole frame has come
  output wire       bad,       // for one cycle: a frame has come that is not whole
  output reg [31:0] dropped,   // frames that were bad, or found no slot
  output wire       quiet
);
  localparam int HEADER_BYTES = 8, CHECKSUM_BYTES = 4;
  localparam bit [3:0] SLOTS = 8;

  function automatic [31:0] crc32(input [31:0] sum, input [7:0] value);
    begin
      crc32 = sum ^ {24'b0, value};
      for (int i = 0; i < 8; i = i + 1) crc32 = crc32[0] ? (crc32 >> 1) ^ 32'hEDB88320 : crc32 >> 1;
    end
  endfunction

  // ---- COBS
  reg [7:0] block_left;
  reg zero_due, decoded;
  reg [7:0] decoded_byte;
  wire ends = received && received_byte == 0;
  always_ff @(posedge clk) begin
    decoded <= 0;
    if (rst || ends) begin
      block_left <= 0;
      zero_due <= 0;
    end else if (received && block_left == 0) begin
      decoded <= zero_due;
      decoded_byte <= 0;
      block_left <= received_byte - 1;
      zero_due <= 1;
    end else if (received) begin
      decoded <= 1;
      decoded_byte <= received_byte;
      block_left <= block_left - 1;
    end
  end

  // ---- into the newest slot; a frame that is not taken is written over by the next one
  reg [7:0] slots [0:SLOTS*256-1];
  reg [2:0] newest, oldest;
  reg [3:0] used;
  reg [8:0] length;
  reg [7:0] command, words;
  reg [31:0] sum;
  reg known;           // the command; this and the next follow from the header, which is long past when a frame ends
  reg [10:0] expected;  // how long the frame must be
  always_ff @(posedge clk) begin
    known <= command >= FIRST_COMMAND && command <= LAST_COMMAND;
    expected <= 11'(HEADER_BYTES + CHECKSUM_BYTES) + (command == READ ? 11'd0 : {1'b0, words, 2'b0});
  end
  wire whole = block_left == 0 && sum == 32'hDEBB20E3 && known && {2'b0, length} == expected;
  reg lost;
  wire taken = good && used != SLOTS;
  assign good = ends && whole;
  assign bad = ends && !whole && length != 0;
  always_ff @(posedge clk) begin
    if (decoded && !length[8]) begin
      slots[{newest, length[7:0]}] <= decoded_byte;
      sum <= crc32(sum, decoded_byte);
      if (length == 1) command <= decoded_byte;
      if (length == 3) words <= decoded_byte;
      length <= length + 1;
    end
    if (rst || ends) begin
      length <= 0;
      sum <= 32'hFFFFFFFF;
    end
    if (rst) begin
      newest <= 0;
      oldest <= 0;
      used <= 0;
      lost <= 0;
      dropped <= 0;
    end else begin
      newest <= newest + 3'(taken);
      oldest <= oldest + 3'(finished);
      used <= used + 4'(taken) - 4'(finished);
      lost <= bad || (good && !taken);
      dropped <= dropped + 32'(lost);
    end
  end

  always_ff @(posedge clk) current <= slots[{oldest, next_at}];
  assign waiting = used != 0;
  assign quiet = !waiting && !decoded && !received;
endmodule
`default_nettype wire
