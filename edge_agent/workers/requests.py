"""Requests to the agent's workers and the count of pulled bytes, importable without the workers' own dependencies."""

from __future__ import annotations

import os
from dataclasses import dataclass

from edge_agent.settings import ChooseBy
from edge_agent.storage.store import Store
from edgewright.contracts.files import reporting_full_disk
from edgewright.contracts.messages import DesiredState


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """A signed desired state and the highest number that was accepted before it."""

    state_directory: str
    envelope: bytes
    accepted_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """A desired state to fetch and the rule that chooses the variant."""

    state_directory: str
    desired: DesiredState
    choose: ChooseBy = ChooseBy.PROFILE
    why_unmeasured: str = ""
    """Reason why the profile chooses although the settings ask for measuring; empty otherwise."""
    backend: str = "auto"
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """A slot to check and the backend to check it with."""

    slot: str
    backend: str
    threads: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRequest:
    """The credential set to replace; if another one is in use already, there is nothing to do."""

    state_directory: str
    credentials: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest:
    """A benchmark job to work on, or to report as failed."""

    state_directory: str
    job: int
    failure: str = ""
    """Reason why an earlier worker failed; empty to work on the job."""
    backend: str = "auto"
    threads: int | None = None


class PulledBytes:
    """Count of the bytes pulled for one desired state, kept across kills in a file that is rewritten in place."""

    def __init__(self, store: Store, desired_number: int) -> None:
        self._path = store.partial / f"{desired_number}.pulled"
        self.total = pulled_bytes(store, desired_number)
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)

    def add(self, count: int) -> None:
        """Add bytes; a kill loses none of them, a power cut possibly the last ones."""
        self.total += count
        with reporting_full_disk("the count of bytes"):
            os.pwrite(self._handle, b"%020d" % self.total, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def pulled_bytes(store: Store, desired_number: int) -> int:
    """Return the number of bytes pulled so far for a desired state."""
    path = store.partial / f"{desired_number}.pulled"
    return int(path.read_text() or 0) if path.is_file() else 0
