"""What a host sees of an NPU: regions of 32-bit words, and the registers that start the core and tell of it.

The numbers are those of docs/spec/npu.md, N80-N83. A board on a serial line has one region more, the link's own
(link/protocol.py).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

REGISTERS, PROGRAM, WEIGHTS, ACTIVATIONS, PARAMETERS, EXTERNAL, TENSORS = range(7)
"""The regions that a host can address."""
MAGIC = 0x31505745
"""What register 0 of every NPU reads."""
CONTROL, STATUS, FIRST_COUNTER = 4, 5, 6
STATUS_BUSY, STATUS_DONE = 1, 2
DEFAULT_BAUD = 3_000_000
"""The speed at which a board's line wakes: bitstreams are built for it, and a host opens the line with it."""
Words = npt.NDArray[np.uint32]
