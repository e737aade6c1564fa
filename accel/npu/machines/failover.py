"""A machine that is the board while one answers and the functional model while none does: same bits, no lost request.

    board there      every batch runs on it
    board fails      the batch at hand is computed again by the model, from its inputs; so are those after it
    meanwhile        a thread asks the ports now and then; a board that says the right hash gets the program and is taken

A program's results depend on its inputs alone, so a batch may be started anew at any time, on either side.
"""

from __future__ import annotations

import logging
import threading
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
"""How long to wait between two looks for the board."""
FIRST_LOOK_S = 3.0
"""How long to wait for the first look, so that a board that is there runs the first request; a long upload goes on behind it."""
ANSWER_S = 0.25
"""How long the board may take to answer: a request waits eight times as long until the model takes over."""
HANGS_AFTER_S = 10.0
HANGS_AFTER_RUNS = 100
"""A core that takes longer than these seconds and so many times its own time together hangs, and is reset."""
LONGEST_PAUSE_PROBES = 64
STOP_S = 10.0


class Failover:
    """A machine (host.py). `devices` is asked again at every look; `execute` may be called from several threads."""

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
        """How many batches each of them has answered."""
        self.changed = threading.Event()
        """Set when a board was taken or lost; whoever waits for it clears it."""
        self._answer_s = answer_s
        self._program = program
        self._devices = devices
        self._probe_s = probe_s
        self._model = FunctionalModel(profile)
        self._model.load(program)
        self._board: Board | None = None
        self._problem = "no serial port to ask"
        cycles = time_program(isa.decode(program.instructions), profile).counters.cycles
        self._run_s = HANGS_AFTER_S + HANGS_AFTER_RUNS * cycles / (profile.clock_mhz * 1e6)
        self._losses = 0  # in a row: a board that fails again and again is asked less and less often
        self._using = threading.Lock()
        self._closed = threading.Event()
        self._looked = threading.Event()
        self._prober = threading.Thread(target=self._probe, name="npu-probe", daemon=True)
        self._prober.start()
        self._looked.wait(FIRST_LOOK_S)

    def load(self, program: NpuProgram) -> None:
        """Accept the program that this was made for; another one needs another machine."""
        if program is not self._program:
            raise OperationError("this machine runs the program that it was made with; make another machine for another program")

    def execute(self, inputs: Mapping[int, Int8], wanted: Sequence[tuple[int, int]]) -> list[Int8]:
        """Run on the board, or on the model when there is none or it fails."""
        with self._using:
            if self._board is not None:
                try:
                    answers = self._board.execute(inputs, wanted)
                    self.runs_on_board += 1
                    self._losses = 0
                    return answers
                except EdgewrightError as failed:
                    self._lose(failed)
            self.runs_on_model += 1
        return self._model.execute(inputs, wanted)

    def describe(self) -> str:
        """Return in words what runs now, and why it is not the board when it is not."""
        board = self._board
        if board is not None:
            return f"board {self.profile.name} at {board.link.device}"
        return f"functional model of {self.profile.name} on the processor: {self._problem}"

    def close(self) -> None:
        """Stop looking, and give the board back."""
        self._closed.set()
        self._prober.join(STOP_S)
        with self._using:
            if self._board is not None:
                self._board.close()
                self._board = None

    def _lose(self, failed: EdgewrightError) -> None:
        assert self._board is not None
        log.warning("lost board device=%s reason=%r; the functional model goes on", self._board.link.device, str(failed))
        self._board.close()
        self._board, self._problem = None, str(failed)
        self._losses += 1
        self.changed.set()

    def _probe(self) -> None:
        self._look()
        self._looked.set()
        while not self._closed.wait(self._probe_s * min(2 ** max(0, self._losses - 1), LONGEST_PAUSE_PROBES)):
            if self._board is None:
                self._look()

    def _look(self) -> None:
        """Ask each port; take the first board that has our hash and took the program."""
        for device in self._devices():
            if self._closed.is_set():
                return
            try:
                board = Board(self.profile, device, answer_s=self._answer_s, run_s=self._run_s)
            except EdgewrightError as absent:
                self._note(absent)
                continue
            try:
                board.load(self._program, self._go_on)
            except EdgewrightError as failed:
                board.close()
                self._note(failed)
                continue
            with self._using:
                self._board = board
            self.changed.set()
            log.info("took board device=%s profile=%s", device, self.profile.name)
            return

    def _go_on(self, _there: int, _total: int) -> None:
        """An upload may take minutes; end it when nobody wants it any more."""
        if self._closed.is_set():
            raise OperationError("the upload was ended: the machine was closed")

    def _note(self, problem: EdgewrightError) -> None:
        """Say each problem once, not once a second."""
        if str(problem) != self._problem:
            log.info("no board: %s", problem)
        self._problem = str(problem)
