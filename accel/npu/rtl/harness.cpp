// The Verilated RTL as a C library: the host port, and a function that runs until the core is idle.
//
// With external memory, an SDRAM model is connected to the pins. Host accesses to that memory use the cells of the model
// directly, because transfers through the port would often take longer than the run.
#include "Vnpu_system.h"
#include "sdram_model.h"
#include "verilated.h"
#include <cstdint>
#include <cstring>
#include <memory>

static bool is_external(int region) { return region == 5 || region == 6; }  // constants and tensors share one memory

struct Npu {
  VerilatedContext context;
  Vnpu_system system{&context};
  std::unique_ptr<Sdram> sdram;
};

static inline void tick(Npu* npu) {
  Vnpu_system& system = npu->system;
  uint16_t data = 0;
  if (npu->sdram)
    data = npu->sdram->edge({bool(system.sdram_cke), bool(system.sdram_cs_n), bool(system.sdram_ras_n), bool(system.sdram_cas_n),
                             bool(system.sdram_we_n), system.sdram_ba, system.sdram_a, system.sdram_dq_out, bool(system.sdram_dq_drive)});
  system.sdram_dq_in = data;
  system.clk = 0;
  system.eval();
  system.clk = 1;
  system.eval();
}

extern "C" {

// A clock of 0 MHz means no external memory.
Npu* npu_open(double external_clock_mhz) {
  Npu* npu = new Npu;
  if (external_clock_mhz > 0) npu->sdram = std::make_unique<Sdram>(external_clock_mhz);
  npu->system.host_write = 0;
  npu->system.host_read = 0;
  npu->system.rst = 1;
  for (int cycle = 0; cycle < 16; cycle++) tick(npu);
  npu->system.rst = 0;
  do tick(npu); while (!npu->system.memory_idle);
  return npu;
}

void npu_close(Npu* npu) {
  npu->system.final();
  delete npu;
}

void npu_write(Npu* npu, int region, uint32_t address, const uint32_t* words, uint32_t count) {
  if (is_external(region)) {
    if (npu->sdram) std::memcpy(&npu->sdram->cells[size_t(address) * 2], words, size_t(count) * 4);
    return;
  }
  npu->system.host_region = region;
  npu->system.host_write = 1;
  for (uint32_t at = 0; at < count; at++) {
    npu->system.host_address = address + at;
    npu->system.host_data = words[at];
    tick(npu);
  }
  npu->system.host_write = 0;
}

void npu_read(Npu* npu, int region, uint32_t address, uint32_t* words, uint32_t count) {
  if (is_external(region)) {
    if (npu->sdram) std::memcpy(words, &npu->sdram->cells[size_t(address) * 2], size_t(count) * 4);
    return;
  }
  npu->system.host_region = region;
  for (uint32_t at = 0; at < count; at++) {
    npu->system.host_address = address + at;
    for (int cycle = 0; cycle < 4; cycle++) tick(npu);
    words[at] = npu->system.host_read_data;
  }
}

// Returns 1 if the core is idle, 0 if it is still busy after `limit` cycles.
int npu_run_until_idle(Npu* npu, uint64_t limit) {
  while (limit-- && npu->system.busy) tick(npu);
  return !npu->system.busy;
}

// The first violation of the SDRAM protocol; empty if there is none.
const char* npu_violation(Npu* npu) { return npu->sdram ? npu->sdram->violation.c_str() : ""; }

}
