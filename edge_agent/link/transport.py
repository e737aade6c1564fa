"""What the agent asks of a way to talk to the cloud."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """What comes from the cloud, as bytes that nothing has believed yet."""

    wished: Callable[[bytes], None]
    """A signed desired state."""
    acknowledged: Callable[[bytes], None]
    """What the cloud has stored of the telemetry."""
    have: Callable[[], int]
    """The highest desired version that was accepted, so that a poll can wait for a higher one."""


class Transport(Protocol):
    """One connection to the cloud, opened and closed many times."""

    name: str

    async def open(self) -> None:
        """Connect; raise `UnreachableError` or `DeniedError`."""
        ...

    async def lost(self) -> str:
        """Wait until the connection is lost and say how."""
        ...

    async def report(self, body: bytes) -> None:
        """Deliver a report; returns when the other side has it, raises `UnreachableError` otherwise."""
        ...

    async def telemetry(self, body: bytes) -> None:
        """Deliver a batch; the acknowledgement comes through the receiver."""
        ...

    async def close(self) -> None:
        """Disconnect; harmless when not connected."""
        ...
