// Model of a 16-bit SDR SDRAM with 4 banks, 8192 rows and 512 columns, at CAS latency 2 and burst length 1.
//
// It stores the data and checks the protocol: initialization after power-up, times between commands, one open row per bank, and
// a refresh of every row within 64 ms. The first violation is recorded as text. Times are those of the datasheet of a -7 part
// (a 100 MHz grade at CAS latency 2), rounded up to clock cycles.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

struct SdramPins {
  bool cke, cs_n, ras_n, cas_n, we_n;
  uint32_t bank, address;
  uint16_t data;
  bool drive;
};

class Sdram {
 public:
  std::vector<uint16_t> cells = std::vector<uint16_t>(size_t(1) << 24);  // in the order of `at`
  std::string violation;

  explicit Sdram(double clock_mhz) : clock_mhz_(clock_mhz) {}

  // One rising edge of the clock with the pins before the edge; returns the data that the memory drives, which the controller
  // samples at the next edge.
  uint16_t edge(const SdramPins& pins) {
    now_ += pins.cke;
    const uint16_t out = coming_;
    coming_ = next_;
    next_ = 0xDEAD;  // the bus is not driven
    if (!pins.cke) return out;
    if (!pins.cs_n) command(pins);
    else if (pins.drive) fail("data driven without a command");
    return out;
  }

  // The cell of an address; the column is in the low bits, then the bank, then the row.
  uint16_t& at(uint32_t bank, uint32_t row, uint32_t column) { return cells[(size_t(row) << 11) | (bank << 9) | column]; }

 private:
  enum { NEVER = -1000000 };
  struct Bank {
    int64_t row = -1, opened = NEVER, closed = NEVER, written = NEVER;
  };
  double clock_mhz_;
  int64_t now_ = 0, refreshed_ = NEVER, mode_set_ = NEVER, refreshes_ = 0, set_up_refreshes_ = 0, ready_at_ = 0;
  bool precharged_ = false, ready_ = false;
  uint16_t coming_ = 0xDEAD, next_ = 0xDEAD;
  Bank banks_[4];

  int64_t cycles(double nanoseconds) const { return int64_t(std::ceil(nanoseconds * clock_mhz_ / 1000.0 - 1e-9)); }

  void fail(const char* what) {
    if (!violation.empty()) return;
    violation = std::string(what) + " in cycle " + std::to_string(now_);
  }
  void want(bool holds, const char* what) {
    if (!holds) fail(what);
  }
  void want_since(int64_t event, double nanoseconds, const char* what) { want(now_ - event >= cycles(nanoseconds), what); }

  void command(const SdramPins& pins) {
    const int code = pins.ras_n << 2 | pins.cas_n << 1 | pins.we_n;
    want(!pins.drive || code == 4, "data driven without WRITE");
    if (code == 7) return;
    want(now_ >= cycles(200e3), "a command within 200 us of power-up");
    want_since(refreshed_, 70, "tRFC: a command within 70 ns of REFRESH");
    want(now_ - mode_set_ >= 2, "tMRD: a command within 2 cycles of MODE REGISTER SET");
    if (code == 3) activate(pins);
    else if (code == 5 || code == 4) access(pins, code == 4);
    else if (code == 2) precharge(pins);
    else if (code == 1) refresh();
    else if (code == 0) set_mode(pins);
    else fail("a command that is not used here");
  }

  void activate(const SdramPins& pins) {
    Bank& bank = banks_[pins.bank];
    want(ready_, "ACTIVATE before the set-up is complete");
    want(bank.row < 0, "ACTIVATE of a bank with an open row");
    want_since(bank.closed, 20, "tRP: ACTIVATE within 20 ns of PRECHARGE");
    want_since(bank.opened, 63, "tRC: ACTIVATE within 63 ns of ACTIVATE");
    bank.row = pins.address;
    bank.opened = now_;
    // 8192 refreshes in 64 ms; up to 8 may be postponed.
    want(now_ - ready_at_ <= (refreshes_ + 9) * 7812.5 * clock_mhz_ / 1000.0, "REFRESH is over 8 intervals late");
  }

  void access(const SdramPins& pins, bool write) {
    Bank& bank = banks_[pins.bank];
    want(bank.row >= 0, "READ or WRITE of a bank without an open row");
    want_since(bank.opened, 20, "tRCD: READ or WRITE within 20 ns of ACTIVATE");
    want(!(pins.address & 0x400), "READ or WRITE with auto-precharge");
    if (bank.row < 0) return;
    uint16_t& cell = at(pins.bank, uint32_t(bank.row), pins.address & 0x1FF);
    if (write) {
      want(pins.drive, "WRITE without data");
      cell = pins.data;
      bank.written = now_;
    } else next_ = cell;
  }

  void precharge(const SdramPins& pins) {
    for (uint32_t number = 0; number < 4; number++) {
      Bank& bank = banks_[number];
      if (number != pins.bank && !(pins.address & 0x400)) continue;
      if (bank.row >= 0) {
        want_since(bank.opened, 45, "tRAS: PRECHARGE within 45 ns of ACTIVATE");
        want(now_ - bank.written >= 2, "tWR: PRECHARGE within 2 cycles of WRITE");
      }
      bank.row = -1;
      bank.closed = now_;
    }
    if (pins.address & 0x400) precharged_ = true;
  }

  void refresh() {
    for (const Bank& bank : banks_) {
      want(bank.row < 0, "REFRESH with an open row");
      want_since(bank.closed, 20, "tRP: REFRESH within 20 ns of PRECHARGE");
    }
    refreshed_ = now_;
    if (!ready_) set_up_refreshes_++;
    else refreshes_++;
  }

  void set_mode(const SdramPins& pins) {
    want(precharged_ && set_up_refreshes_ >= 8, "MODE REGISTER SET before PRECHARGE ALL and 8 refreshes");
    want((pins.address & 0x7F) == 0x20, "the mode is not CAS latency 2, sequential, bursts of one");
    mode_set_ = now_;
    ready_at_ = now_;
    ready_ = true;
  }
};
