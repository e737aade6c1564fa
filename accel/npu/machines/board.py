"""A board on a serial line as a machine. Its counters give compute time alone, without the time of the line.

If a board loses its program during a run (reset button, brown-out, reset of a core that hung), the program is uploaded again
once. failover.py falls back to the functional model if that fails too.
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
    """Board at a serial port.

    Args:
        profile: the expected NPU, compared by hash.
        device: the serial port.
        baud: the baud rate; the board starts at `DEFAULT_BAUD` and is switched to any other rate.
        answer_s: the time after which a request without a response is sent again.
        run_s: the time after which a core that does not finish a run is reset.

    Raises:
        EdgewrightError: no board of `profile` answers at `device`.
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
        """Check the program and upload the part that the board does not hold; `watch` receives the progress."""
        check_program(program, self.profile)
        self._program = program
        self.link.upload(memories_of(program), watch)

    def execute(self, inputs: Mapping[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]:
        """Run as `Hardware.execute` does; upload the program again if the board has lost it."""
        try:
            return super().execute(inputs, outputs)
        except LostProgramError:
            if self._program is None:
                raise
            self.load(self._program)
            return super().execute(inputs, outputs)

    def close(self) -> None:
        """Close the serial line."""
        self.link.close()
