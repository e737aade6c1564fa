"""Speak with a board over a serial line: COBS frames, CRC32, one in flight, repeated until it is answered.

    request   sequence | command | region | words | address (4) | words … | crc32 (4)      COBS, then 0x00
    answer    sequence | command + 0x80 | region | words | words … | crc32 (4)

A board drops what does not match its checksum, and does not do the same write twice, so asking again is always safe
(docs/spec/npu.md, N100-N106).
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time
import tty
import zlib
from types import TracebackType
from typing import Self

import numpy as np

from accel.npu.hardware import REGISTERS, STATUS, STATUS_BUSY, Words
from edgewright.errors import BadInputError, ConflictError, OperationError, UnreachableError

WRITE, READ = 2, 3
WORDS_PER_FRAME = 56
TRIES = 8
ANSWER_S = 1.0
RUN_S = 300.0
DEFAULT_BAUD = 3_000_000
_HEADER = struct.Struct("<BBBBI")


def cobs_encode(raw: bytes) -> bytes:
    """Return `raw` (under 254 bytes) without zeros: each zero becomes the distance to the next one."""
    return b"".join(bytes([len(block) + 1]) + block for block in raw.split(b"\0"))


def cobs_decode(encoded: bytes) -> bytes | None:
    """Return what was encoded, or None when the distances do not fit."""
    blocks, at = [], 0
    while at < len(encoded):
        end = at + encoded[at]
        if end > len(encoded):
            return None
        blocks.append(encoded[at + 1 : end])
        at = end
    return b"\0".join(blocks)


class Link:
    """A port (hardware.py) on a serial line. `device` is what the system calls it: /dev/ttyUSB0, or a pseudo-terminal."""

    def __init__(self, device: str, baud: int = DEFAULT_BAUD, answer_s: float = ANSWER_S) -> None:
        self.device = device
        self.repeated = 0
        self._answer_s = answer_s
        self._file = _open(device, baud)
        self._sequence = 0
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the line back."""
        os.close(self._file)

    def write(self, region: int, address: int, words: Words) -> None:
        """Write words, some dozens per frame."""
        for at in range(0, len(words), WORDS_PER_FRAME):
            chunk = words[at : at + WORDS_PER_FRAME]
            self._ask(WRITE, region, len(chunk), address + at, chunk.astype("<u4").tobytes())

    def read(self, region: int, address: int, count: int) -> Words:
        """Read words, some dozens per frame."""
        parts = []
        for at in range(0, count, WORDS_PER_FRAME):
            length = min(WORDS_PER_FRAME, count - at)
            parts.append(self._ask(READ, region, length, address + at, b""))
        return np.frombuffer(b"".join(parts), "<u4").astype(np.uint32)

    def wait_until_idle(self) -> None:
        """Ask for the status until the core rests; the answer itself paces the questions."""
        deadline = time.monotonic() + RUN_S
        while int(self.read(REGISTERS, STATUS, 1)[0]) & STATUS_BUSY:
            if time.monotonic() > deadline:
                raise OperationError(f"the NPU at {self.device} must finish within {RUN_S:.0f} s, but it is still busy")

    def _ask(self, command: int, region: int, count: int, address: int, content: bytes) -> bytes:
        self._sequence = self._sequence % 255 + 1
        request = _HEADER.pack(self._sequence, command, region, count, address) + content
        frame = cobs_encode(request + struct.pack("<I", zlib.crc32(request))) + b"\0"
        wanted = bytes([self._sequence, command | 0x80, region, count])
        size = 4 * count if command == READ else 0
        for attempt in range(TRIES):
            self.repeated += attempt > 0
            self._send(frame)
            answer = self._answer(wanted, size)
            if answer is not None:
                return answer
        raise UnreachableError(
            f"the NPU at {self.device} did not answer {TRIES} times in a row; check the cable, the board's power and its speed"
        )

    def _send(self, frame: bytes) -> None:
        try:
            while frame:
                select.select([], [self._file], [], self._answer_s)
                frame = frame[os.write(self._file, frame) :]
        except OSError as gone:
            raise UnreachableError(f"the NPU at {self.device} is gone: {gone.strerror}; plug it in again") from gone

    def _answer(self, wanted: bytes, size: int) -> bytes | None:
        """Return the content of the frame that answers; skip others; None when nothing right comes in time."""
        deadline = time.monotonic() + self._answer_s
        while (frame := self._frame(deadline)) is not None:
            raw = cobs_decode(frame)
            if raw is None or len(raw) != 8 + size or zlib.crc32(raw) != _CRC_RESIDUE or raw[:4] != wanted:
                continue
            return raw[4:-4]
        return None

    def _frame(self, deadline: float) -> bytes | None:
        while b"\0" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._file], [], [], left)[0]:
                self._pending = b""
                return None
            try:
                received = os.read(self._file, 4096)
            except OSError as gone:
                raise UnreachableError(f"the NPU at {self.device} is gone: {gone.strerror}; plug it in again") from gone
            if not received:
                raise UnreachableError(f"the NPU at {self.device} is gone: the line was closed; plug it in again")
            self._pending += received
        frame, _, self._pending = self._pending.partition(b"\0")
        return frame


_CRC_RESIDUE = 0x2144DF1C
"""The CRC32 of anything followed by its own CRC32."""


def _open(device: str, baud: int) -> int:
    """Open a serial line for this process alone, raw, at `baud`."""
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise BadInputError(f"the speed must be one that the system knows (115200, 921600, 3000000, …), not {baud}")
    try:
        file = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError as missing:
        raise UnreachableError(f"there is no serial port {device}; is the board plugged in?") from missing
    except PermissionError as denied:
        raise BadInputError(
            f"{device} may not be opened by this user; run: sudo usermod -aG dialout $USER, and log in again"
        ) from denied
    except OSError as wrong:
        raise UnreachableError(f"the serial port {device} cannot be opened: {wrong.strerror}") from wrong
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tty.setraw(file)
        settings = termios.tcgetattr(file)
        settings[4] = settings[5] = speed
        termios.tcsetattr(file, termios.TCSANOW, settings)
        termios.tcflush(file, termios.TCIOFLUSH)
    except BlockingIOError as busy:
        os.close(file)
        raise ConflictError(f"{device} is in use by another process; close that one first") from busy
    except termios.error as wrong:
        os.close(file)
        raise BadInputError(f"{device} must be a serial port, but it is none") from wrong
    return file
