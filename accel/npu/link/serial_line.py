"""An exclusively opened serial port that sends and receives whole frames, at a speed that can be changed."""

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
    """Open serial port. `device` is its path: /dev/ttyUSB0, or a pseudo-terminal."""

    def __init__(self, device: str, baud: int) -> None:
        self.device = device
        self._port = _open(device, baud)
        self._pending = b""
        self.has_received = False
        """True once any byte was received."""

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    @property
    def baud(self) -> int:
        """Current speed in bits per second; setting it changes the port's speed, or raises `BadInputError`."""
        return int(self._port.baudrate)

    @baud.setter
    def baud(self, speed: int) -> None:
        try:
            self._port.baudrate = speed
        except (ValueError, OSError, termios.error) as error:
            raise BadInputError(f"{self.device} must support {speed} baud, but it does not: {error}") from error

    def send(self, frames: bytes) -> None:
        """Write whole frames; raise `UnreachableError` if the port is gone."""
        if not frames:
            return
        try:
            self._port.write(frames)
        except OSError as error:
            raise self._gone(error) from error

    def receive(self, deadline: float) -> bytes | None:
        """Return the next frame that decodes, or None if none arrives by `deadline` (of `time.monotonic`)."""
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
        """Wait for bytes and return all that have arrived."""
        try:
            ready, _, _ = select.select([self._port], [], [], left_s)
            arrived: bytes = self._port.read(max(1, self._port.in_waiting)) if ready else b""
        except OSError as error:
            raise self._gone(error) from error
        self.has_received = self.has_received or bool(arrived)
        return arrived

    def _gone(self, error: Exception) -> UnreachableError:
        is_stuck = "timeout" in str(error).lower()  # pyserial's text for a write that did not finish
        reason = getattr(error, "strerror", None) or ("it accepts no more bytes" if is_stuck else "the line was closed")
        return UnreachableError(f"the NPU at {self.device} is gone: {reason}; plug it in again")


def _open(device: str, baud: int) -> serial.Serial:
    if find_spec("serial") is None:
        raise OperationError("a board on a serial line needs pyserial, which is not installed: pip install 'edgewright[npu]'")
    import serial

    try:
        port = serial.Serial(device, baud, timeout=0, exclusive=True, write_timeout=WRITE_TIMEOUT_S)
    except (ValueError, OverflowError) as error:
        raise BadInputError(
            f"the baud rate must be one that the system supports (115200, 921600, 3000000, …), not {baud}"
        ) from error
    except (OSError, termios.error) as error:  # pyserial does not convert termios.error
        raise open_error(device, OSError(*error.args) if isinstance(error, termios.error) else error) from error
    with contextlib.suppress(ValueError, OSError):  # otherwise an FTDI adapter waits 16 ms for more bytes; not all ports can
        port.set_low_latency_mode(True)
    return port


def open_error(device: str, error: OSError) -> EdgewrightError:
    """Return the error for a port that cannot be opened, with advice; pyserial's exceptions carry the system's error number."""
    if error.errno == errno.ENOENT:
        return UnreachableError(f"there is no serial port {device}; is the board plugged in?")
    if error.errno in (errno.EACCES, errno.EPERM):
        return BadInputError(f"{device} may not be opened by this user; run: sudo usermod -aG dialout $USER, and log in again")
    if error.errno in (errno.EAGAIN, errno.EBUSY):
        return ConflictError(f"{device} is in use by another process; close that one first")
    if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EISDIR) or error.errno is None:
        return BadInputError(f"{device} must be a serial port, but it is not one")
    return UnreachableError(f"the serial port {device} cannot be opened: {error.strerror}")
