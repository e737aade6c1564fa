// A serial line, 8 data bits, no parity, one stop bit.
`default_nettype none
module npu_uart (
  input  wire       clk,
  input  wire       rst,
  input  wire [15:0] cycles_per_bit,
  input  wire       rx,
  output reg        received,       // for one cycle, with the byte
  output reg        broken,         // for one cycle: a byte has come without its stop bit
  output reg  [7:0] received_byte,
  output reg        tx,
  output wire       may_send,
  input  wire       send,
  input  wire [7:0] send_byte,
  output wire       quiet
);
  // ---- receive: wait for a start bit, then look at the middle of every bit
  reg [2:0] line;
  reg [3:0] receive_bit;  // 0: no byte; 1: start bit; 2 to 9: data; 10: stop bit
  reg [15:0] receive_wait;
  reg [7:0] receive_shift;
  always_ff @(posedge clk) begin
    line <= {line[1:0], rx};
    received <= 0;
    broken <= 0;
    if (rst) begin
      receive_bit <= 0;
      line <= 3'b111;
    end else if (receive_bit == 0) begin
      receive_wait <= (cycles_per_bit >> 1) - 1;
      if (!line[2]) receive_bit <= 1;
    end else if (receive_wait != 0) receive_wait <= receive_wait - 1;
    else begin
      receive_wait <= cycles_per_bit - 1;
      if (receive_bit == 1) receive_bit <= line[2] ? 0 : 2;
      else if (receive_bit < 10) begin
        receive_shift <= {line[2], receive_shift[7:1]};
        receive_bit <= receive_bit + 1;
      end else begin
        receive_bit <= 0;
        received <= line[2];
        broken <= !line[2];
        received_byte <= receive_shift;
      end
    end
  end

  // ---- send: start bit, data, stop bit; the last bit lasts as long as the others
  reg [3:0] send_left;
  reg [15:0] send_wait;
  reg [9:0] send_shift;
  assign may_send = send_left == 0 && !send;
  assign quiet = send_left == 0 && receive_bit == 0 && line == 3'b111;
  always_ff @(posedge clk)
    if (rst) begin
      send_left <= 0;
      tx <= 1;
    end else if (send_left == 0) begin
      tx <= 1;
      if (send) begin
        send_shift <= {1'b1, send_byte, 1'b0};
        send_left <= 11;
        send_wait <= 0;
      end
    end else if (send_wait != 0) send_wait <= send_wait - 1;
    else begin
      send_left <= send_left - 1;
      send_wait <= cycles_per_bit - 1;
      if (send_left != 1) begin
        tx <= send_shift[0];
        send_shift <= {1'b1, send_shift[9:1]};
      end
    end
endmodule
`default_nettype wire
