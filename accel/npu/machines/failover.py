"""A machine that uses a board while it answers, otherwise the functional model: same bits, no lost request.

    board attached    every batch runs on it
    board fails       the functional model repeats the current batch from its inputs, and computes all later ones
    no board          a thread probes the ports periodically; a board with the right hash gets the program and is attached

The results of a program depend on its inputs alone, so either side can repeat a batch at any time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from accel.npu import isa
from accel.npu.arithmetic import Int8
from accel.npu.machines.board import Board
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.timing import time_program
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram
from edgewright.errors import EdgewrightError, OperationError

log = logging.getLogger(__name__)

PROBE_S = 1.0
"""Pause between two probes of the ports."""
FIRST_PROBE_S = 3.0
"""Time that the constructor waits for the first probe, so that an attached board runs the first request; a longer upload
continues in the background."""
MORE_PROBES_S = 5.0
"""Time for which `wait_for_board` waits after an unsuccessful first probe."""
ANSWER_S = 0.25
"""Time limit for a response of the board; a request waits eight times as long before the functional model takes over."""
HANGS_AFTER_S = 10.0
HANGS_AFTER_RUNS = 100
"""The core is reset if a run takes longer than HANGS_AFTER_S plus HANGS_AFTER_RUNS times its compute time."""
LONGEST_PAUSE_PROBES = 64
"""Limit of the pause between two probes after repeated failures, in units of `probe_s`."""
STOP_S = 10.0


class Failover:
    """Machine (host.py) with a fallback. Every probe calls `devices`; `execute` may be called from several threads."""

    def __init__(
        self,
        profile: NpuProfile,
        program: NpuProgram,
        devices: Callable[[], Sequence[str]],
        *,
        probe_s: float = PROBE_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.profile = profile
        self.runs_on_board = self.runs_on_model = 0
        """Numbers of batches computed by board and by functional model."""
        self.changed = threading.Event()
        """Set when a board is attached or lost; the waiting thread clears it."""
        self._answer_s = answer_s
        self._program = program
        self._devices = devices
        self._probe_s = probe_s
        self._model = FunctionalModel(profile)
        self._model.load(program)
        self._board: Board | None = None
        self._problem = "no serial port to probe"
        cycles = time_program(isa.decode(program.instructions), profile).counters.cycles
        self._run_s = HANGS_AFTER_S + HANGS_AFTER_RUNS * cycles / (profile.clock_mhz * 1e6)
        self._losses = 0  # consecutive: a board that keeps failing is probed less often
        self._using = threading.Lock()
        self._closed = threading.Event()
        self._has_probed = threading.Event()
        self._prober = threading.Thread(target=self._probe_repeatedly, name="npu-probe", daemon=True)
        self._prober.start()
        self._has_probed.wait(FIRST_PROBE_S)

    def load(self, program: NpuProgram) -> None:
        """Accept the program of the constructor only; raise `OperationError` for another one."""
        if program is not self._program:
            raise OperationError("a failover machine must run the program of its constructor; create a machine for each program")

    def execute(self, inputs: Mapping[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]:
        """Run on the board, or on the functional model if there is no board or it fails."""
        with self._using:
            if self._board is not None:
                try:
                    results = self._board.execute(inputs, outputs)
                    self.runs_on_board += 1
                    self._losses = 0
                    return results
                except EdgewrightError as error:
                    self._drop_board(error)
            self.runs_on_model += 1
        return self._model.execute(inputs, outputs)

    def wait_for_board(self, limit_s: float) -> bool:
        """Wait for the first probe, which may upload for minutes, and for some more; return True if a board is attached."""
        self._has_probed.wait(limit_s)
        ends_at_s = time.monotonic() + MORE_PROBES_S
        while self._board is None and time.monotonic() < ends_at_s:
            time.sleep(0.05)
        return self._board is not None

    def describe(self) -> str:
        """Return a description of the machine in use; without a board it includes the reason."""
        board = self._board
        if board is not None:
            return f"board {self.profile.name} at {board.link.device}"
        return f"functional model of {self.profile.name} on the processor: {self._problem}"

    def close(self) -> None:
        """Stop probing, and release the board."""
        self._closed.set()
        self._prober.join(STOP_S)
        with self._using:
            if self._board is not None:
                self._board.close()
                self._board = None

    def _drop_board(self, error: EdgewrightError) -> None:
        assert self._board is not None
        log.warning("lost board device=%s reason=%r fallback=functional-model", self._board.link.device, str(error))
        self._board.close()
        self._board, self._problem = None, str(error)
        self._losses += 1
        self.changed.set()

    def _probe_repeatedly(self) -> None:
        self._probe()
        self._has_probed.set()
        while not self._closed.wait(self._probe_s * min(2 ** max(0, self._losses - 1), LONGEST_PAUSE_PROBES)):
            if self._board is None:
                self._probe()

    def _probe(self) -> None:
        """Probe each port; attach the first board that has the profile's hash and accepts the program."""
        for device in self._devices():
            if self._closed.is_set():
                return
            try:
                board = Board(self.profile, device, answer_s=self._answer_s, run_s=self._run_s)
            except EdgewrightError as error:
                self._log_problem(error)
                continue
            try:
                board.load(self._program, self._stop_if_closed)
            except EdgewrightError as error:
                board.close()
                self._log_problem(error)
                continue
            with self._using:
                self._board = board
            self.changed.set()
            log.info("attached board device=%s profile=%s", device, self.profile.name)
            return

    def _stop_if_closed(self, _uploaded: int, _total: int) -> None:
        """Abort an upload, which may take minutes, after the machine was closed."""
        if self._closed.is_set():
            raise OperationError("the upload was aborted: the machine was closed")

    def _log_problem(self, error: EdgewrightError) -> None:
        """Log a problem unless it is the same as at the last probe."""
        if str(error) != self._problem:
            log.info("found no board reason=%r", str(error))
        self._problem = str(error)
