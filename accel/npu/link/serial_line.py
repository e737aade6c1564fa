"""A serial port for this process alone: whole frames out and in, at a speed that can be changed; errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import select
import termios
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from accel.npu.link.frames import cobs_decode
from edgewright.errors import BadInputError, ConflictError, EdgewrightError, OperationError, UnreachableError

if TYPE_CHECKING:
    import serial

WRITE_TIMEOUT_S = 5.0


class SerialLine:
    """One open port. `device` is what the system calls it: /dev/ttyUSB0, or a pseudo-terminal."""

    def __init__(self, device: str, baud: int) -> None:
        self.device = device
        self._port = _open(device, baud)
        self._pending = b""
        self.heard = False
        """Whether anything at all came."""

    def close(self) -> None:
        """Give the port back."""
        self._port.close()

    @property
    def baud(self) -> int:
        """The speed now."""
        return int(self._port.baudrate)

    @baud.setter
    def baud(self, speed: int) -> None:
        try:
            self._port.baudrate = speed
        except (ValueError, OSError, termios.error) as wrong:
            raise BadInputError(f"{self.device} must have the speed {speed}, but it cannot: {wrong}") from wrong

    def send(self, frames: bytes) -> None:
        """Write whole frames; raise `UnreachableError` when the port is gone."""
        if not frames:
            return
        try:
            self._port.write(frames)
        except OSError as gone:
            raise self._gone(gone) from gone

    def receive(self, deadline: float) -> bytes | None:
        """Return the next frame that decodes, or None when none has come by `deadline` (of `time.monotonic`)."""
        while True:
            frame = self._frame(deadline)
            if frame is None:
                return None
            raw = cobs_decode(frame)
            if raw is not None:
                return raw

    def _frame(self, deadline: float) -> bytes | None:
        while b"\0" not in self._pending:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            self._pending += self._read(left_s)
        frame, _, self._pending = self._pending.partition(b"\0")
        return frame

    def _read(self, left_s: float) -> bytes:
        """Wait for bytes, and take all that are there."""
        try:
            ready, _, _ = select.select([self._port], [], [], left_s)
            arrived: bytes = self._port.read(max(1, self._port.in_waiting)) if ready else b""
        except OSError as gone:
            raise self._gone(gone) from gone
        self.heard = self.heard or bool(arrived)
        return arrived

    def _gone(self, why: Exception) -> UnreachableError:
        is_stuck = "timeout" in str(why).lower()  # pyserial's word for a write that nobody takes
        told = getattr(why, "strerror", None) or ("it takes no more bytes" if is_stuck else "the line was closed")
        return UnreachableError(f"the NPU at {self.device} is gone: {told}; plug it in again")


def _open(device: str, baud: int) -> serial.Serial:
    if find_spec("serial") is None:
        raise OperationError("a board on a serial line needs pyserial, which is not installed: pip install 'edgewright[npu]'")
    import serial

    try:
        port = serial.Serial(device, baud, timeout=0, exclusive=True, write_timeout=WRITE_TIMEOUT_S)
    except (ValueError, OverflowError) as wrong:
        raise BadInputError(f"the speed must be one that the system knows (115200, 921600, 3000000, …), not {baud}") from wrong
    except (OSError, termios.error) as wrong:  # pyserial lets the second one through
        raise explained(device, OSError(*wrong.args) if isinstance(wrong, termios.error) else wrong) from wrong
    with contextlib.suppress(ValueError, OSError):  # an FTDI adapter else waits 16 ms for more bytes; not every port can
        port.set_low_latency_mode(True)
    return port


def explained(device: str, wrong: OSError) -> EdgewrightError:
    """Say what to do; pyserial's exceptions carry the system's error number."""
    if wrong.errno == errno.ENOENT:
        return UnreachableError(f"there is no serial port {device}; is the board plugged in?")
    if wrong.errno in (errno.EACCES, errno.EPERM):
        return BadInputError(f"{device} may not be opened by this user; run: sudo usermod -aG dialout $USER, and log in again")
    if wrong.errno in (errno.EAGAIN, errno.EBUSY):
        return ConflictError(f"{device} is in use by another process; close that one first")
    if wrong.errno in (errno.ENOTTY, errno.EINVAL, errno.EISDIR) or wrong.errno is None:
        return BadInputError(f"{device} must be a serial port, but it is none")
    return UnreachableError(f"the serial port {device} cannot be opened: {wrong.strerror}")
