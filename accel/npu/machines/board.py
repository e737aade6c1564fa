"""A board on a serial line as a machine. Wire time and compute time are different things: the counters tell the second.

A board that loses its program while it works (its reset button, a brown-out, a core that hung and had to be reset) gets it
again, once per run; whoever needs more than that falls back to the functional model (failover.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accel.npu.arithmetic import Int8
from accel.npu.link.protocol import ANSWER_S, RUN_S, Link, Watch
from accel.npu.link.window import LostProgramError
from accel.npu.machines.port import Hardware, memories_of
from accel.npu.model.checks import check_program
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram
from accel.npu.registers import DEFAULT_BAUD


class Board(Hardware):
    """The NPU behind `device`; raises `EdgewrightError` when nobody answers there, or somebody else does.

    Args:
        profile: what the board must be, by its hash.
        device: the serial port.
        baud: the speed to work at; the board wakes at `DEFAULT_BAUD`, and another one is agreed on.
        answer_s: how long an answer may take before a request is repeated.
        run_s: how long one run may take before the core is reset.
    """

    def __init__(
        self,
        profile: NpuProfile,
        device: str,
        baud: int = DEFAULT_BAUD,
        *,
        answer_s: float = ANSWER_S,
        run_s: float = RUN_S,
    ) -> None:
        self.link = Link(device, DEFAULT_BAUD, answer_s, run_s)
        self._program: NpuProgram | None = None
        try:
            self.link.hello()
            super().__init__(profile, self.link)
            if baud != DEFAULT_BAUD:
                self.link.set_speed(baud)
        except BaseException:
            self.link.close()
            raise

    def load(self, program: NpuProgram, watch: Watch | None = None) -> None:
        """Check the program and upload what of it the board does not hold yet; `watch` is told how far it is."""
        check_program(program, self.profile)
        self._program = program
        self.link.upload(memories_of(program), watch)

    def execute(self, inputs: Mapping[int, Int8], wanted: Sequence[tuple[int, int]]) -> list[Int8]:
        """Run as `Hardware.execute` does; upload the program again if the board has lost it."""
        try:
            return super().execute(inputs, wanted)
        except LostProgramError:
            if self._program is None:
                raise
            self.load(self._program)
            return super().execute(inputs, wanted)

    def close(self) -> None:
        """Give the line back."""
        self.link.close()
