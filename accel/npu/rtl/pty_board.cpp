// A simulated board behind a pseudo-terminal: whatever opens a serial port can open the device that is printed first.
#include "Vnpu_board.h"
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

static const int SLEEP_AFTER = 64;  // quiet cycles before the simulation waits for a byte
static const int LOOK_EVERY = 256;  // cycles between looks at the terminal while it works

int main(int, char** arguments) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);  // never outlive whoever started the board
  const int cycles_per_bit = atoi(arguments[1]);
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return 1;
  const int other_side = open(ptsname(terminal), O_RDWR | O_NOCTTY);  // kept open, so that a host may come and go
  termios raw;
  tcgetattr(other_side, &raw);
  cfmakeraw(&raw);
  tcsetattr(other_side, TCSANOW, &raw);
  printf("%s\n", ptsname(terminal));
  fflush(stdout);

  VerilatedContext context;
  Vnpu_board board{&context};
  auto tick = [&] { board.clk = 0; board.eval(); board.clk = 1; board.eval(); };
  board.rx = 1;
  board.rst = 1;
  for (int cycle = 0; cycle < 16; cycle++) tick();
  board.rst = 0;

  std::deque<uint8_t> incoming;
  uint32_t rx_shift = 0, tx_byte = 0;
  int rx_left = 0, rx_wait = 0, tx_bit = 0, tx_wait = 0, quiet = 0;
  for (uint64_t cycle = 0;; cycle++) {
    if (cycle % LOOK_EVERY == 0 || quiet > SLEEP_AFTER) {
      if (quiet > SLEEP_AFTER) {
        pollfd ready{terminal, POLLIN, 0};
        poll(&ready, 1, 1000);
      }
      uint8_t bytes[4096];
      const ssize_t count = read(terminal, bytes, sizeof bytes);
      for (ssize_t at = 0; at < count; at++) incoming.push_back(bytes[at]);
      if (count <= 0 && quiet > SLEEP_AFTER) continue;
      quiet = 0;
    }
    if (rx_left == 0 && !incoming.empty()) {  // start bit, data, stop bit
      rx_shift = 0x200u | (uint32_t(incoming.front()) << 1);
      incoming.pop_front();
      rx_left = 10;
      rx_wait = 0;
    }
    if (rx_left) {
      board.rx = rx_shift & 1;
      if (++rx_wait == cycles_per_bit) { rx_wait = 0; rx_shift >>= 1; rx_left--; }
    } else board.rx = 1;
    tick();
    if (tx_bit == 0) {
      if (!board.tx) { tx_bit = 1; tx_wait = cycles_per_bit + cycles_per_bit / 2; }
    } else if (--tx_wait == 0) {
      tx_wait = cycles_per_bit;
      if (tx_bit <= 8) { tx_byte = (tx_byte >> 1) | (uint32_t(board.tx) << 7); tx_bit++; }
      else {
        const uint8_t byte = uint8_t(tx_byte);
        if (write(terminal, &byte, 1) < 0) { /* nobody listens: a line drops it too */ }
        tx_byte = 0;
        tx_bit = 0;
      }
    }
    quiet = board.quiet && rx_left == 0 && tx_bit == 0 && incoming.empty() ? quiet + 1 : 0;
  }
}
