"""Damage of the slot that a workload should run, and the reason why none runs: facts of the disk, found again at every start.

The journal may state that a version runs although a power cut or a worn-out disk has damaged its files. `inspect` compares the
journal with the slots at the start; a runner that finds other bytes than the record's reports them through `runner_failed`.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.deployment.journal import Journal
from edge_agent.storage.integrity import DamagedSlotError, slot_damage
from edge_agent.storage.links import LAST_GOOD, Links
from edge_agent.storage.store import SlotRecord, Store
from edgewright.contracts.messages import DeploymentState, DesiredState
from edgewright.errors import OperationError


@dataclass(frozen=True, slots=True)
class Trouble:
    """The reason why the version that should run does not; `state` is reported instead of "running"."""

    reason: str
    state: DeploymentState = DeploymentState.FAILED


class Repairs:
    """Record of damaged slots and failed runners, from which repairs are decided."""

    def __init__(self, store: Store, links: Links, journal: Journal) -> None:
        self.damaged: DesiredState | None = None
        """The desired state whose slot is damaged and must be fetched again."""
        self.trouble: Trouble | None = None
        self._store = store
        self._links = links
        self._journal = journal

    @property
    def damage(self) -> str | None:
        """The damage that a repair can mend, or None."""
        return self.trouble.reason if self.trouble is not None and self.damaged is not None else None

    def inspect(self) -> None:
        """Look for the record of the slot that should run; its other files are verified by the runner."""
        number = self._number_that_should_run()
        if number is None:
            return
        slot, desired = self._store.slot(number), self._journal.desired(number)
        if slot is not None and desired in (None, slot.desired):
            return
        path = self._store.slot_path(number)
        damage = slot_damage(path) if path.is_dir() else "its slot is missing"
        if desired is not None:
            self._set_damage(desired, damage or "its record is of another desired state")

    def runner_failed(self, record: SlotRecord, error: OperationError | None) -> None:
        """Note the error of a runner that does not start; None means that one runs."""
        if error is None:
            if self.damaged is None or self.damaged == record.desired:
                self.clear()
        elif isinstance(error, DamagedSlotError):
            self._set_damage(record.desired, str(error))
        elif self.damaged is None:
            self.trouble = Trouble(str(error))

    def clear(self) -> None:
        """Forget the damage, because the slot is whole or is not needed any more."""
        self.damaged = self.trouble = None

    def _set_damage(self, desired: DesiredState, damage: str) -> None:
        name = f"{desired.model}:{desired.version}"
        reason = damage if damage.startswith(name) else f"{name} is damaged on this device: {damage}"
        self.damaged, self.trouble = desired, Trouble(f"{reason}; it is fetched again", DeploymentState.FETCHING)

    def _number_that_should_run(self) -> int | None:
        current = self._journal.current()
        if current is not None and current.state is DeploymentState.RUNNING:
            return current.desired.desired_number
        return self._links.linked_number(LAST_GOOD)
