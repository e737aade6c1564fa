"""What the agent asks of its workers, and what they have pulled; apart from the workers, whose imports are not the agent's."""

from __future__ import annotations

import os
from dataclasses import dataclass

from edge_agent.settings import ChooseBy
from edge_agent.storage.store import Store
from edgewright.contracts.files import reporting_full_disk
from edgewright.contracts.messages import DesiredState


@dataclass(frozen=True, slots=True, kw_only=True)
class BeliefOrder:
    """A wish to weigh, and the highest desired version that was accepted."""

    state_directory: str
    envelope: bytes
    accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOrder:
    """What to fetch, where the state directory is, and how to choose: by what the agent's own settings run."""

    state_directory: str
    desired: DesiredState
    choose: ChooseBy = ChooseBy.PROFILE
    why_unmeasured: str = ""
    """Why the profile decides though measuring is asked for; empty where it is not, or is done."""
    backend: str = "auto"
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOrder:
    """Which slot to check, with what."""

    slot: str
    backend: str
    threads: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalOrder:
    """Whose certificate to renew, and the slot that is to be replaced; once another is in use, nothing is left to do."""

    state_directory: str
    slot: str


class PulledBytes:
    """Bytes over the wire for one desired version, kept across kills: a number in a file, rewritten in place."""

    def __init__(self, store: Store, desired_number: int) -> None:
        self._path = store.partial / f"{desired_number}.pulled"
        self.total = pulled_bytes(store, desired_number)
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)

    def add(self, count: int) -> None:
        """Count bytes; a kill right after loses none, a power cut perhaps the last."""
        self.total += count
        with reporting_full_disk("the count of bytes"):
            os.pwrite(self._handle, b"%020d" % self.total, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def pulled_bytes(store: Store, desired_number: int) -> int:
    """Return how many bytes came over the wire for a desired version so far."""
    path = store.partial / f"{desired_number}.pulled"
    return int(path.read_text() or 0) if path.is_file() else 0
