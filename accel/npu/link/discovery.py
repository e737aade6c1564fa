"""Which serial ports to ask whether a board is there: named ones, those of a USB adapter, or all USB adapters, the likely first.

A port says nothing of what hangs on it, so this is a list to try; HELLO and the profile's hash (protocol.py,
machines/port.py) then tell the wanted board from anything else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

DEVICE_VARIABLE = "EDGEWRIGHT_NPU_DEVICE"
"""Says which ports to ask (see `resolve`), instead of all USB serial ports."""
AUTO = "auto"
NO_DEVICE = "none"
LIKELY = ((0x0403, 0x6015), (0x0D28, 0x0204))
"""USB vendor and product of the adapters on our boards: FT231X (ULX3S), DAPLink (Colorlight i9 extension board)."""

_USB_ID = re.compile(r"([0-9a-fA-F]{4}):([0-9a-fA-F]{4})")


@dataclass(frozen=True, slots=True)
class SerialPort:
    """One port of this machine."""

    device: str
    usb_id: tuple[int, int] | None
    """Vendor and product; None for a port that is no USB adapter."""


def devices() -> tuple[str, ...]:
    """Return the ports to ask now: a board may be plugged in at any time."""
    return resolve(os.environ.get(DEVICE_VARIABLE, "").strip() or AUTO)


def resolve(told: str, ports: Sequence[SerialPort] | None = None) -> tuple[str, ...]:
    """Return the ports that `told` means.

    Args:
        told: `auto` (every USB serial port), `none`, or a list, separated by commas, of ports (`/dev/ttyUSB0`) and of USB ids
            (`0403:6015`, vendor and product in hexadecimal).
        ports: the ports that there are; None asks this machine.
    """
    if told == NO_DEVICE:
        return ()
    if told == AUTO:
        return candidates(ports)
    found: list[str] = []
    for name in (part.strip() for part in told.split(",")):
        usb_id = _USB_ID.fullmatch(name)
        found += [name] if usb_id is None else _with_usb_id((int(usb_id[1], 16), int(usb_id[2], 16)), ports)
    return tuple(found)


def candidates(ports: Sequence[SerialPort] | None = None) -> tuple[str, ...]:
    """Return the USB serial ports of this machine (or of `ports`), those of known boards first, then by name.

    Without pyserial there are none to ask.
    """
    usb = [port for port in (_ports() if ports is None else ports) if port.usb_id is not None]
    return tuple(port.device for port in sorted(usb, key=lambda port: (port.usb_id not in LIKELY, port.device)))


def _with_usb_id(usb_id: tuple[int, int], ports: Sequence[SerialPort] | None) -> list[str]:
    found = _ports() if ports is None else ports
    return sorted(port.device for port in found if port.usb_id == usb_id)


def _ports() -> list[SerialPort]:
    if find_spec("serial") is None:
        return []
    from serial.tools import list_ports

    return [
        SerialPort(port.device, None if port.vid is None or port.pid is None else (port.vid, port.pid))
        for port in list_ports.comports()
    ]
