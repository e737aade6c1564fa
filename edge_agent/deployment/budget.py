"""Budgets of memory and disk that the workloads of a device share.

A version that does not fit beside the other workloads is refused before the switch. The reason names who would have to give way,
because the device cannot know which workload matters more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgewright.contracts.messages import DesiredState
from hardware_profiles.memory import free_memory_bytes

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes that another workload uses."""

    workload: str
    size_bytes: int


class Beside(Protocol):
    """Facts about the other workloads of the device."""

    @property
    def loading(self) -> asyncio.Lock:
        """Lock that is held while a workload loads a new version, so that two do not count on the same free memory."""

    def may_collect(self) -> bool:
        """Return False while another workload needs files that no link reaches yet."""

    def memory(self) -> Sequence[Use]:
        """Return the memory of the other workloads' runners."""

    def disk(self) -> Sequence[Use]:
        """Return the disk space that a removal of each other workload would free."""


class MemoryBudget:
    """Memory that a new version may use; its need is measured when it is checked."""

    def __init__(self, limit_bytes: int | None, beside: Beside) -> None:
        self._limit_bytes = limit_bytes
        self._beside = beside
        self._needed: tuple[int, int] = (0, 0)

    def measured(self, desired_number: int, size_bytes: int) -> None:
        """Keep the memory that the check of a desired state needed."""
        self._needed = desired_number, size_bytes

    def refusal(self, desired: DesiredState) -> str | None:
        """Return the reason why the version would take memory from another workload; None if its need is not known."""
        number, needed_bytes = self._needed
        if number != desired.desired_number:
            return None  # the agent has restarted since the check
        others, free_bytes = self._beside.memory(), free_memory_bytes()
        if self._limit_bytes is not None:
            free_bytes = min(free_bytes, self._limit_bytes - sum(use.size_bytes for use in others))
        return refusal(f"{desired.model}:{desired.version}", needed_bytes=needed_bytes, free_bytes=free_bytes, others=others)


def refusal(version: str, *, needed_bytes: int, free_bytes: int, others: Sequence[Use]) -> str | None:
    """Return the reason why a version cannot run beside the other workloads; None if its memory suffices, or without others."""
    if needed_bytes <= free_bytes or not any(use.size_bytes for use in others):
        return None
    needed, free = _megabytes(needed_bytes), _megabytes(max(0, free_bytes))
    return f"{version} needs {needed} of memory beside the other workloads, but {free} are free{would_give_way(others)}"


def would_give_way(others: Sequence[Use]) -> str:
    """Return the end of a reason that names the largest other workloads; empty without others."""
    largest = sorted(others, key=lambda use: (-use.size_bytes, use.workload))[:_NAMED]
    names = " or ".join(f"{use.workload} ({_megabytes(use.size_bytes)})" for use in largest if use.size_bytes)
    return f": {names} would have to give way" if names else ""


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes >= 10e6 else f"{size_bytes / 1e6:.1f} MB"
