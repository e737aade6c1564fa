"""Protocols between the agent and a transport to the cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class DesiredReceiver(Protocol):
    """Receiver of signed desired states."""

    @property
    def highest_number(self) -> int:
        """The number of the newest verified desired state, so that a poll can wait for a higher one."""
        ...

    def receive(self, envelope: bytes) -> None:
        """Take an envelope whose signature has not been verified."""
        ...


class AcknowledgementReceiver(Protocol):
    """Receiver of telemetry acknowledgements."""

    def receive(self, raw: bytes) -> None:
        """Take an encoded acknowledgement."""
        ...


@dataclass(frozen=True, slots=True)
class Receiver:
    """Receivers of the messages that a transport gets from the cloud."""

    desired: DesiredReceiver
    acknowledgements: AcknowledgementReceiver


class Transport(Protocol):
    """A connection to the cloud that can be opened and closed many times."""

    name: str

    async def open(self) -> None:
        """Connect.

        Raises:
            UnreachableError: the cloud does not answer.
            DeniedError: the cloud does not accept this device.
        """
        ...

    async def lost(self) -> str:
        """Wait until the connection is lost and return the reason."""
        ...

    async def report(self, body: bytes) -> None:
        """Deliver a report and return when the other side has received it.

        Raises:
            UnreachableError: the report was not received.
        """
        ...

    async def telemetry(self, body: bytes) -> None:
        """Deliver a batch of measurements; its acknowledgement arrives through the receiver."""
        ...

    async def close(self) -> None:
        """Disconnect; does nothing when not connected."""
        ...
