"""Speak with a board: several requests in flight, repeated until they are answered; an upload that goes on where it broke off.

    hello       which protocol the board speaks, how fast its line may be (the profile's hash is the machine's: machines/port.py)
    upload      a program's memories, in order; the board keeps count and CRC32 of each, so only what is missing is sent
    start       RUN names count and CRC32 of every memory; a board that holds anything else refuses
    wait        until the core rests; one that does not in time is reset, and one that was reset says so

A board drops what does not match its checksum and does nothing twice that must not be done twice, so asking again is always
safe (docs/spec/npu.md, N100-N119).
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
"""The region of the link's own registers."""
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
"""Clock cycles per bit that a board can be told."""
SPEED_ERROR = 0.02
"""How far apart two ends of a serial line may be: a tenth of a bit after ten bits, on each side."""

Watch = Callable[[int, int], None]
"""Told how many words of an upload are there, and how many there will be."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What a board says of one memory: so many words from its beginning, with this CRC32."""

    words: int
    crc32: int


class Link:
    """A port (machines/port.py) on a serial line. `baud` is the speed at which the board wakes."""

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
        self._met = False  # whether a right answer ever came
        self._program: list[tuple[int, Words]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the line back, at the speed at which the next host looks for the board."""
        if self._line.baud != self._first_baud:
            with contextlib.suppress(EdgewrightError):  # nobody may be there any more
                self._exchange(_writes(LINK, SPEED, np.array([self._first_divisor], np.uint32)), tries=1)
        self._line.close()

    # -- what a port does ---------------------------------------------------------------------------------------------

    def write(self, region: int, address: int, words: Words) -> None:
        """Write words to the activations, some dozens per frame; the memories of a program are uploaded instead."""
        self._exchange(_writes(region, address, words))

    def read(self, region: int, address: int, count: int) -> Words:
        """Read words of the registers, of the activations, or of the link's own registers."""
        ends = range(address, address + count, WORDS_PER_FRAME)
        requests = [Request(Command.READ, region, at, min(WORDS_PER_FRAME, address + count - at)) for at in ends]
        return np.frombuffer(b"".join(self._exchange(requests)), "<u4").astype(np.uint32)

    def upload(self, memories: Mapping[int, Words], watch: Watch | None = None) -> None:
        """Bring a program's memories to the board; what is there already is not sent again.

        Raises:
            UnreachableError: the board went away; the next upload goes on from there.
            OperationError: the board holds something else afterwards.
        """
        total = sum(len(words) for words in memories.values())
        self._program = []
        done = 0
        for region, words in memories.items():
            for there in self._upload_region(region, words):
                if watch is not None:
                    watch(done + there, total)
            done += len(words)
        self._program = list(memories.items())

    def start(self) -> None:
        """Run what was uploaded; raise `LostProgramError` when the board holds anything else."""
        pairs = [(region << 26 | len(words), zlib.crc32(words.tobytes())) for region, words in self._program]
        content = np.array(pairs, "<u4").tobytes()
        (answer,) = self._exchange([Request(Command.RUN, 0, 0, 2 * len(pairs), content)])
        told = int.from_bytes(answer, "little")
        if told & 2:
            raise OperationError(f"the NPU at {self.device} must be at rest to run a program, but it is busy; reset it")
        if not told & 1:
            raise LostProgramError(f"the NPU at {self.device} does not hold the whole program; upload it again")

    def wait_until_idle(self) -> None:
        """Ask for the status until the core rests; the answer itself paces the questions.

        Raises:
            LostProgramError: the core did not come to rest in time and was reset, or somebody reset the board.
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
        """Ask what protocol is spoken; raise `UnreachableError` when nobody answers, `ProfileError` when it is another one."""
        (answer,) = self._exchange([Request(Command.READ, LINK, PROTOCOL_REGISTER, 1)], tries=HELLO_TRIES)
        found = int.from_bytes(answer, "little")
        if found >> 8 != PROTOCOL >> 8:
            raise OperationError(f"the device at {self.device} answers, but it is no NPU")
        if found != PROTOCOL:
            raise ProfileError(
                f"the NPU at {self.device} must speak version {PROTOCOL & 0xFF} of the link, but it speaks {found & 0xFF}; "
                "load a bitstream of this edgewright"
            )

    def uploaded(self, region: int) -> Uploaded:
        """Return how much of a memory the board holds."""
        words, crc = (int(self.read(LINK, base + region, 1)[0]) for base in (UPLOADED, CHECKSUMS))
        return Uploaded(words, crc)

    def reset(self) -> None:
        """Stop the core whatever it does, and forget the program."""
        self._exchange(_writes(LINK, RESET, np.zeros(1, np.uint32)))

    def set_speed(self, baud: int) -> None:
        """Agree on another speed; where it does not work, both sides are at the first one again.

        Raises:
            BadInputError: the board's clock does not divide to that speed.
            UnreachableError: nobody answers at the new speed.
        """
        self._first_divisor = int(self.read(LINK, FIRST_SPEED_REGISTER, 1)[0])
        clock_hz = self._first_baud * self._first_divisor
        divisor = round(clock_hz / baud)
        if not FASTEST <= divisor <= SLOWEST or abs(clock_hz / divisor / baud - 1) > SPEED_ERROR:
            raise BadInputError(
                f"the speed must divide the board's {clock_hz / 1e6:g} MHz to within {SPEED_ERROR:.0%}, by {FASTEST} to "
                f"{SLOWEST}, but {baud} does not; try {clock_hz // min(max(FASTEST, divisor), SLOWEST)}"
            )
        self._exchange(_writes(LINK, SPEED, np.array([divisor], np.uint32)))
        self._line.baud = baud
        try:
            self.hello()
        except UnreachableError:
            self._line.baud = self._first_baud
            self.hello()
            raise UnreachableError(
                f"the NPU at {self.device} does not answer at {baud} baud; it is at {self._first_baud} again"
            ) from None

    # -- frames -------------------------------------------------------------------------------------------------------

    def _upload_region(self, region: int, words: Words) -> Iterator[int]:
        """Send what is missing, window by window; yield how much is there."""
        found = self.uploaded(region)
        at = found.words if found.words <= len(words) and zlib.crc32(words[: found.words].tobytes()) == found.crc32 else 0
        if found.words and not at:
            self._exchange(_writes(LINK, region, np.zeros(1, np.uint32)))
        step = FRAMES_PER_STEP * WORDS_PER_FRAME
        while at < len(words):
            yield at
            self._exchange(_writes(region, at, words[at : at + step]), in_order=True)
            at += step
        if self.uploaded(region) != Uploaded(len(words), zlib.crc32(words.tobytes())):
            raise OperationError(f"the NPU at {self.device} did not take the program as it was sent; upload it again")
        yield len(words)

    def _exchange(self, requests: Sequence[Request], *, in_order: bool = False, tries: int = TRIES) -> list[bytes]:
        """Have every request answered, up to `WINDOW` at a time, and return the answers in the order of the requests."""
        window = Window(requests, self._next_sequence, in_order=in_order)
        silent = 0
        while not window.finished:
            self._line.send(window.to_send())
            raw = self._line.receive(time.monotonic() + self._answer_s)
            if raw is not None:
                if window.take(raw):
                    silent, self._met = 0, True
                continue
            silent += 1
            if silent == tries:
                raise self._silence(tries)
            self._line.send(window.again())
        self.repeated += window.repeated
        return window.answers()

    def _silence(self, tries: int) -> UnreachableError:
        if self._line.heard and not self._met:
            return UnreachableError(
                f"something answers at {self.device}, but not as an NPU does: it is another device, or has another speed"
            )
        return UnreachableError(
            f"the NPU at {self.device} did not answer {tries} times in a row; check the cable, the board's power and its speed"
        )

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % SEQUENCE_LIMIT + 1
        return self._sequence


def _writes(region: int, address: int, words: Words) -> list[Request]:
    """Cut words into requests that fit a frame."""
    starts = range(0, len(words), WORDS_PER_FRAME)
    chunks = [(address + at, words[at : at + WORDS_PER_FRAME]) for at in starts]
    return [Request(Command.WRITE, region, at, len(chunk), chunk.astype("<u4").tobytes()) for at, chunk in chunks]
