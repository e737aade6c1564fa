"""The RTL simulator: the RTL, Verilated into a shared library (hardware/verilate.py), as a machine."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from accel.npu.hardware.verilate import build
from accel.npu.machines.port import Hardware
from accel.npu.profile import NpuProfile
from accel.npu.registers import CONTROL, REGISTERS, Words
from edgewright.errors import OperationError

CYCLE_LIMIT = 1 << 33


class LibraryPort:
    """Port of a Verilated NPU in a shared library; `external_clock_mhz` is 0 without external memory."""

    def __init__(self, library: Path, external_clock_mhz: float = 0.0) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.npu_open.restype = ctypes.c_void_p
        self._library.npu_violation.restype = ctypes.c_char_p
        self._npu = ctypes.c_void_p(self._library.npu_open(ctypes.c_double(external_clock_mhz)))

    def upload(self, memories: Mapping[int, Words]) -> None:
        """Write each memory from address 0."""
        for region, words in memories.items():
            self.write(region, 0, words)

    def start(self) -> None:
        """Start the core through the control register."""
        self.write(REGISTERS, CONTROL, np.array([1], np.uint32))

    def write(self, region: int, address: int, words: Words) -> None:
        """Write one word per clock cycle."""
        self._library.npu_write(self._npu, region, address, words.ctypes.data_as(ctypes.c_void_p), len(words))

    def read(self, region: int, address: int, count: int) -> Words:
        """Read one word per four clock cycles."""
        words = np.zeros(count, np.uint32)
        self._library.npu_read(self._npu, region, address, words.ctypes.data_as(ctypes.c_void_p), count)
        return words

    def wait_until_idle(self) -> None:
        """Run the clock, in C, until the core is idle.

        Raises:
            OperationError: the core ran for `CYCLE_LIMIT` cycles, or the SDRAM controller broke the memory's protocol.
        """
        if not self._library.npu_run_until_idle(self._npu, ctypes.c_uint64(CYCLE_LIMIT)):
            raise OperationError(f"the simulated NPU must finish within {CYCLE_LIMIT} cycles, but it did not; compile again")
        violation = self._library.npu_violation(self._npu).decode()
        if violation:
            raise OperationError(f"the SDRAM protocol must be obeyed, but it was violated: {violation}; this is a bug")

    def close(self) -> None:
        """Free the model."""
        self._library.npu_close(self._npu)


class RtlSimulator(Hardware):
    """Machine that simulates the RTL; `plain` simulates a paired multiplier as two (N14, N93), which is several times faster."""

    def __init__(self, profile: NpuProfile, *, plain: bool = False) -> None:
        self._port = LibraryPort(build(profile, plain=plain), profile.clock_mhz if profile.external_memory_mib else 0.0)
        super().__init__(profile, self._port)

    def close(self) -> None:
        """Free the model; the machine is unusable afterwards."""
        self._port.close()
