// The Verilated core as a C library: the host port, and a run that comes back when the core rests.
#include "Vnpu_core.h"
#include "verilated.h"
#include <cstdint>

struct Npu {
  VerilatedContext context;
  Vnpu_core core{&context};
};

static inline void tick(Npu* npu) {
  npu->core.clk = 0;
  npu->core.eval();
  npu->core.clk = 1;
  npu->core.eval();
}

extern "C" {

Npu* npu_open() {
  Npu* npu = new Npu;
  npu->core.host_write = 0;
  npu->core.rst = 1;
  for (int cycle = 0; cycle < 16; cycle++) tick(npu);
  npu->core.rst = 0;
  return npu;
}

void npu_close(Npu* npu) {
  npu->core.final();
  delete npu;
}

void npu_write(Npu* npu, int region, uint32_t address, const uint32_t* words, uint32_t count) {
  npu->core.host_region = region;
  npu->core.host_write = 1;
  for (uint32_t at = 0; at < count; at++) {
    npu->core.host_address = address + at;
    npu->core.host_data = words[at];
    tick(npu);
  }
  npu->core.host_write = 0;
}

void npu_read(Npu* npu, int region, uint32_t address, uint32_t* words, uint32_t count) {
  npu->core.host_region = region;
  for (uint32_t at = 0; at < count; at++) {
    npu->core.host_address = address + at;
    for (int cycle = 0; cycle < 4; cycle++) tick(npu);
    words[at] = npu->core.host_read_data;
  }
}

// Returns 1 when the core rests, 0 when it is still busy after `limit` cycles.
int npu_run_until_idle(Npu* npu, uint64_t limit) {
  while (limit-- && npu->core.busy) tick(npu);
  return !npu->core.busy;
}

}
