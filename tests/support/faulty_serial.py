"""Faulty serial lines: a pseudo-terminal in front of a board, with a fault for each direction."""

from __future__ import annotations

import os
import random
import select
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Mangle = Callable[[bytes], bytes]


def unchanged(data: bytes) -> bytes:
    return data


def noisy(seed: int, share: float = 0.0005) -> Mangle:
    """Flip a bit of a share of the bytes, drop as many, and double as many."""
    chance = random.Random(seed)

    def mangle(data: bytes) -> bytes:
        kinds = [chance.random() for _ in data]
        pieces = []
        for value, kind in zip(data, kinds, strict=True):
            changed = bytes([value ^ 1 << chance.randrange(8)]) if kind < share else bytes([value])
            pieces.append(b"" if kind > 1 - share else changed * (2 if 0.5 < kind < 0.5 + share else 1))
        return b"".join(pieces)

    return mangle


def cut_after(count: int) -> Mangle:
    """Pass `count` bytes and drop all others, like a pulled cable."""
    left = count

    def mangle(data: bytes) -> bytes:
        nonlocal left
        passed, left = data[:left], max(0, left - len(data))
        return passed

    return mangle


@contextmanager
def faulty_line(device: str, to_board: Mangle, to_host: Mangle) -> Iterator[str]:
    """Put a pseudo-terminal in front of `device` that applies one function to the bytes of each direction."""
    near, host_side = os.openpty()
    far = os.open(device, os.O_RDWR | os.O_NOCTTY)
    settings = termios.tcgetattr(far)
    settings[4] = settings[5] = termios.B3000000  # a board's speed after power-up
    termios.tcsetattr(far, termios.TCSANOW, settings)
    stop_read, stop_write = os.pipe()

    def forward() -> None:
        while True:
            ready, _, _ = select.select([near, far, stop_read], [], [])
            if stop_read in ready:
                return
            for source, target, mangle in ((near, far, to_board), (far, near, to_host)):
                if source in ready:
                    os.write(target, mangle(os.read(source, 4096)))

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        yield os.ttyname(host_side)
    finally:
        os.write(stop_write, b"x")
        thread.join(10)
        for file in (near, host_side, far, stop_read, stop_write):
            os.close(file)
