// A simulated board on a pseudo-terminal. It prints the path of the device, which any serial port library can open.
//
//     pty_board CYCLES_PER_BIT BAUD MHZ  the initial speed of the line, in clock cycles per bit and in baud, and the clock for
//                                        the check of the SDRAM protocol
//
// If the host has set another speed, the bytes are corrupted, as on a real line. SIGUSR1 is the board's reset button.
#include "Vnpu_board.h"
#include "sdram_model.h"
#include "verilated.h"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <csignal>
#include <termios.h>
#include <unistd.h>

static const int SLEEP_AFTER = 64;  // idle cycles before the simulation blocks until a byte arrives
static const int LOOK_EVERY = 256;  // cycles between polls of the terminal while busy

static volatile sig_atomic_t button = 0;

static int baud_of(int terminal) {
  static const struct { speed_t code; int baud; } KNOWN[] = {
    {B9600, 9600}, {B19200, 19200}, {B38400, 38400}, {B57600, 57600}, {B115200, 115200}, {B230400, 230400}, {B460800, 460800},
    {B500000, 500000}, {B576000, 576000}, {B921600, 921600}, {B1000000, 1000000}, {B1152000, 1152000}, {B1500000, 1500000},
    {B2000000, 2000000}, {B2500000, 2500000}, {B3000000, 3000000}, {B3500000, 3500000}, {B4000000, 4000000}};
  termios now;
  if (tcgetattr(terminal, &now) == 0)
    for (const auto& speed : KNOWN) if (speed.code == cfgetospeed(&now)) return speed.baud;
  return 0;
}

int main(int, char** arguments) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);  // end with the parent process
  signal(SIGUSR1, [](int) { button = 1; });
  const double clock = double(atoi(arguments[1])) * atoi(arguments[2]);
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return 1;
  const int other_side = open(ptsname(terminal), O_RDWR | O_NOCTTY);  // kept open, so that a host may disconnect and connect again
  termios raw;
  tcgetattr(other_side, &raw);
  cfmakeraw(&raw);
  tcsetattr(other_side, TCSANOW, &raw);
  printf("%s\n", ptsname(terminal));
  fflush(stdout);

  VerilatedContext context;
  Vnpu_board board{&context};
  Sdram sdram(atof(arguments[3]));
  auto tick = [&] {
    board.sdram_dq_in = sdram.edge({bool(board.sdram_cke), bool(board.sdram_cs_n), bool(board.sdram_ras_n), bool(board.sdram_cas_n),
                                    bool(board.sdram_we_n), board.sdram_ba, board.sdram_a, board.sdram_dq_out,
                                    bool(board.sdram_dq_drive)});
    if (!sdram.violation.empty()) { fprintf(stderr, "SDRAM: %s\n", sdram.violation.c_str()); exit(1); }
    board.clk = 0;
    board.eval();
    board.clk = 1;
    board.eval();
  };
  board.rx = 1;
  board.rst = 1;
  for (int cycle = 0; cycle < 16; cycle++) tick();
  board.rst = 0;
  bool same_speed = true;

  std::deque<uint16_t> incoming;  // bits 7..0: byte, bit 8: stop bit
  uint32_t rx_shift = 0, tx_byte = 0;
  int rx_left = 0, rx_wait = 0, tx_bit = 0, tx_wait = 0, quiet = 0;
  for (uint64_t cycle = 0;; cycle++) {
    const int cycles_per_bit = board.cycles_per_bit;
    if (cycle % LOOK_EVERY == 0 || quiet > SLEEP_AFTER) {
      if (quiet > SLEEP_AFTER) {
        pollfd ready{terminal, POLLIN, 0};
        poll(&ready, 1, 1000);
      }
      const double apart = baud_of(other_side) / (clock / cycles_per_bit);
      same_speed = apart > 0.97 && apart < 1.03;
      if (button) {
        button = 0;
        board.rst = 1;
        for (int tact = 0; tact < 16; tact++) tick();
        board.rst = 0;
        incoming.clear();
        rx_left = 0;
        tx_bit = 0;
      }
      uint8_t bytes[4096];
      const ssize_t count = read(terminal, bytes, sizeof bytes);
      for (ssize_t at = 0; at < count; at++) incoming.push_back(same_speed ? 0x100u | bytes[at] : bytes[at] ^ 0x5Au);
      if (count <= 0 && quiet > SLEEP_AFTER) continue;
      quiet = 0;
    }
    if (rx_left == 0 && !incoming.empty()) {  // start bit, data, stop bit
      rx_shift = uint32_t(incoming.front()) << 1;
      incoming.pop_front();
      rx_left = 10;
      rx_wait = 0;
    }
    if (rx_left) {
      board.rx = rx_shift & 1;
      if (++rx_wait >= cycles_per_bit) { rx_wait = 0; rx_shift >>= 1; rx_left--; }
    } else board.rx = 1;
    tick();
    if (tx_bit == 0) {
      if (!board.tx) { tx_bit = 1; tx_wait = cycles_per_bit + cycles_per_bit / 2; }
    } else if (--tx_wait == 0) {
      tx_wait = cycles_per_bit;
      if (tx_bit <= 8) { tx_byte = (tx_byte >> 1) | (uint32_t(board.tx) << 7); tx_bit++; }
      else {
        const uint8_t byte = uint8_t(same_speed ? tx_byte : tx_byte ^ 0x5A);
        if (write(terminal, &byte, 1) < 0) { /* no reader: a real line drops the byte too */ }
        tx_byte = 0;
        tx_bit = 0;
      }
    }
    quiet = board.quiet && rx_left == 0 && tx_bit == 0 && incoming.empty() ? quiet + 1 : 0;
  }
}
