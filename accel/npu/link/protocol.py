"""The link protocol of a host: requests in flight, retransmission, and uploads that resume after an interruption.

    hello       checks the version of the link protocol (machines/port.py checks the profile's hash)
    upload      sends the memories of a program in order; the board keeps count and CRC32 of each, so only the rest is sent
    start       RUN names count and CRC32 of every memory; a board with other contents refuses
    wait        until the core is idle; a core that takes too long is reset, and a reset board is detected

A board drops frames with a wrong checksum and ignores repeated requests with effects, so it is always safe to send a request
again (docs/spec/npu.md, N100-N119).
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from accel.npu.link.frames import SEQUENCE_LIMIT, WORDS_PER_FRAME, Command, Request
from accel.npu.link.serial_line import SerialLine
from accel.npu.link.window import LostProgramError, Window
from accel.npu.registers import DEFAULT_BAUD, REGISTERS, STATUS, STATUS_BUSY, Words
from edgewright.errors import BadInputError, EdgewrightError, OperationError, ProfileError, UnreachableError

LINK = 7
"""Region of the link's own registers."""
PROTOCOL = 0x45574C02
PROTOCOL_REGISTER, SPEED_REGISTER, DROPPED_REGISTER, FIRST_SPEED_REGISTER = range(4)
UPLOADED, CHECKSUMS = 8, 16
RESET, SPEED = 8, 9
TRIES = 8
HELLO_TRIES = 3
FRAMES_PER_STEP = 128
ANSWER_S = 1.0
RUN_S = 300.0
FASTEST, SLOWEST = 4, (1 << 16) - 1
"""Range of clock cycles per bit that a board supports."""
SPEED_ERROR = 0.02
"""Largest relative speed difference between host and board: a fifth of a bit after the ten bits of a byte."""

Watch = Callable[[int, int], None]
"""Callback with the number of uploaded words and their total."""


@dataclass(frozen=True, slots=True)
class UploadState:
    """Contents of one memory as the board reports them: number of words from address 0, and their CRC32."""

    words: int
    crc32: int


class Link:
    """Port (machines/port.py) on a serial line. `baud` is the board's speed after power-up."""

    def __init__(self, device: str, baud: int = DEFAULT_BAUD, answer_s: float = ANSWER_S, run_s: float = RUN_S) -> None:
        self.device = device
        self.repeated = 0
        """Frames that had to be sent again."""
        self._first_baud = baud
        self._first_divisor = 0  # not known yet
        self._answer_s = answer_s
        self._run_s = run_s
        self._line = SerialLine(device, baud)
        self._sequence = 0
        self._has_answered = False  # True after the first valid answer
        self._program: list[tuple[int, Words]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the line; the board returns to its first speed, which the next host expects."""
        if self._line.baud != self._first_baud:
            with contextlib.suppress(EdgewrightError):  # the board may be gone
                self._exchange(_writes(LINK, SPEED, np.array([self._first_divisor], np.uint32)), tries=1)
        self._line.close()

    # -- the methods of a port ----------------------------------------------------------------------------------------

    def write(self, region: int, address: int, words: Words) -> None:
        """Write words to the activations; the memories of a program need `upload`."""
        self._exchange(_writes(region, address, words))

    def read(self, region: int, address: int, count: int) -> Words:
        """Read words of the registers, of the activations, or of the link's own registers."""
        ends = range(address, address + count, WORDS_PER_FRAME)
        requests = [Request(Command.READ, region, at, min(WORDS_PER_FRAME, address + count - at)) for at in ends]
        return np.frombuffer(b"".join(self._exchange(requests)), "<u4").astype(np.uint32)

    def upload(self, memories: Mapping[int, Words], watch: Watch | None = None) -> None:
        """Send the memories of a program to the board, without the words that it has already.

        Raises:
            UnreachableError: the board is gone; the next upload resumes there.
            OperationError: the board does not hold the program afterwards.
        """
        total = sum(len(words) for words in memories.values())
        self._program = []
        done = 0
        for region, words in memories.items():
            for uploaded in self._upload_region(region, words):
                if watch is not None:
                    watch(done + uploaded, total)
            done += len(words)
        self._program = list(memories.items())

    def start(self) -> None:
        """Run the uploaded program.

        Raises:
            LostProgramError: the board does not hold that program.
            OperationError: the board is busy.
        """
        pairs = [(region << 26 | len(words), zlib.crc32(words.tobytes())) for region, words in self._program]
        content = np.array(pairs, "<u4").tobytes()
        (answer,) = self._exchange([Request(Command.RUN, 0, 0, 2 * len(pairs), content)])
        status = int.from_bytes(answer, "little")
        if status & 2:
            raise OperationError(f"the NPU at {self.device} must be idle to run a program, but it is busy; reset it")
        if not status & 1:
            raise LostProgramError(f"the NPU at {self.device} does not hold the complete program; upload it again")

    def wait_until_idle(self) -> None:
        """Poll the status until the core is idle; the round trip of the line limits the rate.

        Raises:
            LostProgramError: the core did not finish in time and was reset, or the board was reset.
        """
        deadline = time.monotonic() + self._run_s
        while (status := int(self.read(REGISTERS, STATUS, 1)[0])) & STATUS_BUSY:
            if time.monotonic() > deadline:
                self.reset()
                raise LostProgramError(f"the NPU at {self.device} must finish within {self._run_s:g} s, but it did not: reset")
        if status == 0:
            raise LostProgramError(f"the NPU at {self.device} was reset while it ran")

    # -- the link's own registers -------------------------------------------------------------------------------------

    def hello(self) -> None:
        """Check the protocol of the device.

        Raises:
            UnreachableError: the device does not answer.
            OperationError: it is not an NPU.
            ProfileError: it uses another version of the link protocol.
        """
        (answer,) = self._exchange([Request(Command.READ, LINK, PROTOCOL_REGISTER, 1)], tries=HELLO_TRIES)
        protocol = int.from_bytes(answer, "little")
        if protocol >> 8 != PROTOCOL >> 8:
            raise OperationError(
                f"the device at {self.device} must be an NPU, but it identifies itself as another device; choose its port"
            )
        if protocol != PROTOCOL:
            raise ProfileError(
                f"the NPU at {self.device} must use version {PROTOCOL & 0xFF} of the link protocol, but it uses "
                f"{protocol & 0xFF}; load a bitstream of this edgewright"
            )

    def upload_state(self, region: int) -> UploadState:
        """Return the contents of a memory as the board reports them."""
        words, crc = (int(self.read(LINK, base + region, 1)[0]) for base in (UPLOADED, CHECKSUMS))
        return UploadState(words, crc)

    def reset(self) -> None:
        """Stop the core at once and clear the program."""
        self._exchange(_writes(LINK, RESET, np.zeros(1, np.uint32)))

    def set_speed(self, baud: int) -> None:
        """Switch host and board to another baud rate; if the board does not answer there, both return to the first one.

        Raises:
            BadInputError: the board's clock cannot be divided to that baud rate.
            UnreachableError: the board does not answer at the new baud rate.
        """
        self._first_divisor = int(self.read(LINK, FIRST_SPEED_REGISTER, 1)[0])
        clock_hz = self._first_baud * self._first_divisor
        divisor = round(clock_hz / baud)
        if not FASTEST <= divisor <= SLOWEST or abs(clock_hz / divisor / baud - 1) > SPEED_ERROR:
            raise BadInputError(
                f"the baud rate must be the board's {clock_hz / 1e6:g} MHz divided by {FASTEST} to "
                f"{SLOWEST}, within {SPEED_ERROR:.0%}, but {baud} is not; try {clock_hz // min(max(FASTEST, divisor), SLOWEST)}"
            )
        self._exchange(_writes(LINK, SPEED, np.array([divisor], np.uint32)))
        self._line.baud = baud
        try:
            self.hello()
        except UnreachableError:
            self._line.baud = self._first_baud
            self.hello()
            raise UnreachableError(
                f"the NPU at {self.device} does not answer at {baud} baud; it returned to {self._first_baud}"
            ) from None

    # -- frames -------------------------------------------------------------------------------------------------------

    def _upload_region(self, region: int, words: Words) -> Iterator[int]:
        """Send the missing words, step by step; yield the number of uploaded words."""
        state = self.upload_state(region)
        at = state.words if state.words <= len(words) and zlib.crc32(words[: state.words].tobytes()) == state.crc32 else 0
        if state.words and not at:
            self._exchange(_writes(LINK, region, np.zeros(1, np.uint32)))
        step = FRAMES_PER_STEP * WORDS_PER_FRAME
        while at < len(words):
            yield at
            self._exchange(_writes(region, at, words[at : at + step]), in_order=True)
            at += step
        if self.upload_state(region) != UploadState(len(words), zlib.crc32(words.tobytes())):
            raise OperationError(
                f"the NPU at {self.device} must hold the program as it was sent, but it does not; upload it again"
            )
        yield len(words)

    def _exchange(self, requests: Sequence[Request], *, in_order: bool = False, tries: int = TRIES) -> list[bytes]:
        """Send every request, up to `WINDOW` at a time, and return the responses in the order of the requests."""
        window = Window(requests, self._next_sequence, in_order=in_order)
        silent = 0
        while not window.finished:
            self._line.send(window.to_send())
            raw = self._line.receive(time.monotonic() + self._answer_s)
            if raw is not None:
                if window.accept(raw):
                    silent, self._has_answered = 0, True
                continue
            silent += 1
            if silent == tries:
                raise self._silence(tries)
            self._line.send(window.to_resend())
        self.repeated += window.repeated
        return window.answers()

    def _silence(self, tries: int) -> UnreachableError:
        if self._line.has_received and not self._has_answered:
            return UnreachableError(
                f"the device at {self.device} does not respond as an NPU: it is another device, or its baud rate differs"
            )
        return UnreachableError(
            f"the NPU at {self.device} did not respond {tries} times in a row; check the cable, the power and the baud rate"
        )

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % SEQUENCE_LIMIT + 1
        return self._sequence


def _writes(region: int, address: int, words: Words) -> list[Request]:
    """Return write requests that each fit a frame."""
    starts = range(0, len(words), WORDS_PER_FRAME)
    chunks = [(address + at, words[at : at + WORDS_PER_FRAME]) for at in starts]
    return [Request(Command.WRITE, region, at, len(chunk), chunk.astype("<u4").tobytes()) for at, chunk in chunks]
