"""Which serial ports to ask whether a board is there: those of USB adapters, the likely ones first.

A port says nothing of what hangs on it, so this is a list to try; HELLO (link.py) then tells a board from anything else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

DEVICE_VARIABLE = "EDGEWRIGHT_NPU_DEVICE"
"""Names the serial ports to ask instead, separated by commas, or says `none`."""
NO_DEVICE = "none"
LIKELY = ((0x0403, 0x6015), (0x0D28, 0x0204))
"""USB vendor and product of the adapters on our boards: FT231X (ULX3S), DAPLink (Colorlight i9 extension board)."""


@dataclass(frozen=True, slots=True)
class SerialPort:
    """One port of this machine."""

    device: str
    usb_id: tuple[int, int] | None
    """Vendor and product; None for a port that is no USB adapter."""


def candidates(ports: Sequence[SerialPort] | None = None) -> tuple[str, ...]:
    """Return the USB serial ports of this machine (or of `ports`), those of known boards first, then by name.

    Without pyserial there are none to ask.
    """
    found = _ports() if ports is None else ports
    usb = [port for port in found if port.usb_id is not None]
    return tuple(port.device for port in sorted(usb, key=lambda port: (port.usb_id not in LIKELY, port.device)))


def devices() -> tuple[str, ...]:
    """Return the ports to ask now: those of `EDGEWRIGHT_NPU_DEVICE`, or else of this machine's USB adapters."""
    told = os.environ.get(DEVICE_VARIABLE, "").strip()
    if told:
        return () if told == NO_DEVICE else tuple(device.strip() for device in told.split(","))
    return candidates()


def _ports() -> list[SerialPort]:
    if find_spec("serial") is None:
        return []
    from serial.tools import list_ports

    return [
        SerialPort(port.device, None if port.vid is None or port.pid is None else (port.vid, port.pid))
        for port in list_ports.comports()
    ]
