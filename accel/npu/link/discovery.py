"""List the serial ports to probe for a board: named ones, those with a USB id, or all USB adapters, known boards first.

A serial port does not identify the device on it, so every port must be probed: HELLO (protocol.py) and the profile's hash
(machines/port.py) identify the board.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

DEVICE_VARIABLE = "EDGEWRIGHT_NPU_DEVICE"
"""Environment variable that names the ports to probe (see `resolve`), instead of all USB serial ports."""
AUTO = "auto"
NO_DEVICE = "none"
LIKELY = ((0x0403, 0x6015), (0x0D28, 0x0204))
"""USB vendor and product ids of the adapters on supported boards: FT231X (ULX3S), DAPLink (Colorlight i9 extension board)."""

_USB_ID = re.compile(r"([0-9a-fA-F]{4}):([0-9a-fA-F]{4})")


@dataclass(frozen=True, slots=True)
class SerialPort:
    """Serial port of this machine."""

    device: str
    usb_id: tuple[int, int] | None
    """Vendor and product id; None for a port that is not a USB adapter."""


def devices() -> tuple[str, ...]:
    """Return the ports to probe now; the list changes when boards are plugged in or removed."""
    return resolve(os.environ.get(DEVICE_VARIABLE, "").strip() or AUTO)


def resolve(selection: str, ports: Sequence[SerialPort] | None = None) -> tuple[str, ...]:
    """Return the ports that `selection` names.

    Args:
        selection: `auto` (every USB serial port), `none`, or a comma-separated list of ports (`/dev/ttyUSB0`) and USB ids
            (`0403:6015`, vendor and product in hexadecimal).
        ports: the available ports; None means those of this machine.
    """
    if selection == NO_DEVICE:
        return ()
    if selection == AUTO:
        return candidates(ports)
    devices: list[str] = []
    for name in (part.strip() for part in selection.split(",")):
        usb_id = _USB_ID.fullmatch(name)
        devices += [name] if usb_id is None else _with_usb_id((int(usb_id[1], 16), int(usb_id[2], 16)), ports)
    return tuple(devices)


def candidates(ports: Sequence[SerialPort] | None = None) -> tuple[str, ...]:
    """Return the USB serial ports of this machine (or of `ports`), those of known boards first, then by name.

    Without pyserial the result is empty.
    """
    usb = [port for port in (_ports() if ports is None else ports) if port.usb_id is not None]
    return tuple(port.device for port in sorted(usb, key=lambda port: (port.usb_id not in LIKELY, port.device)))


def _with_usb_id(usb_id: tuple[int, int], ports: Sequence[SerialPort] | None) -> list[str]:
    available = _ports() if ports is None else ports
    return sorted(port.device for port in available if port.usb_id == usb_id)


def _ports() -> list[SerialPort]:
    if find_spec("serial") is None:
        return []
    from serial.tools import list_ports

    return [
        SerialPort(port.device, None if port.vid is None or port.pid is None else (port.vid, port.pid))
        for port in list_ports.comports()
    ]
