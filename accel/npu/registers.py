"""The host interface of an NPU: regions of 32-bit words, and the control and status registers.

The numbers are those of docs/spec/npu.md, N80-N83. A board on a serial line has one more region, for the link's own registers
(link/protocol.py).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

REGISTERS, PROGRAM, WEIGHTS, ACTIVATIONS, PARAMETERS, EXTERNAL, TENSORS = range(7)
"""The regions that a host can address."""
MAGIC = 0x31505745
"""Value of register 0 of every NPU."""
CONTROL, STATUS, FIRST_COUNTER = 4, 5, 6
STATUS_BUSY, STATUS_DONE = 1, 2
DEFAULT_BAUD = 3_000_000
"""Speed of a board's serial line after power-up: bitstreams are built for it, and a host opens the line with it."""
Words = npt.NDArray[np.uint32]
