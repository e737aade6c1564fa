"""The two links of each workload: to its active slot and to its last good one.

    workloads/<workload>/active -> ../../slots/5       the slot that runs
    workloads/<workload>/last_good -> ../../slots/4    the slot that passed its trial, for a roll-back

A link changes by one rename, so a power cut leaves the old slot or the new one. A lost link is restored from the slots. The
folder of an agent that knew one workload has its two links beside `slots`; `adopt_single_links` moves them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from edge_agent.storage.failpoints import failpoint
from edge_agent.storage.store import SlotRecord, Store, read_record
from edgewright.contracts.files import reporting_full_disk, sync_path

ACTIVE = "active"
LAST_GOOD = "last_good"
WORKLOADS = "workloads"


class Links:
    """The links of one workload."""

    def __init__(self, store: Store, workload: str) -> None:
        self.workload = workload
        self._store = store
        self._folder = store.root / WORKLOADS / workload

    def active(self) -> SlotRecord | None:
        """Return the slot of the `active` link; None if the link is missing or dangling."""
        return read_record(self._folder / ACTIVE)

    def last_good(self) -> SlotRecord | None:
        """Return the slot of the `last_good` link; None if the link is missing or dangling."""
        return read_record(self._folder / LAST_GOOD)

    def linked_number(self, link: str) -> int | None:
        """Return the number of the slot that a link names, even if the slot is damaged; None without a link."""
        return _number_in(self._folder / link)

    def set_link(self, link: str, desired_number: int) -> None:
        """Point a link to a slot by one rename.

        Raises:
            StorageFullError: the disk is full.
        """
        with reporting_full_disk("a link"):
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=self._store.root, prefix=".link-"))
            try:
                (temporary / link).symlink_to(Path("..") / ".." / "slots" / str(desired_number))
                failpoint(f"{link}.before_rename")
                (temporary / link).replace(self._folder / link)
                sync_path(self._folder)
                failpoint(f"{link}.after_rename")
            finally:
                shutil.rmtree(temporary)

    def remove_link(self, link: str) -> None:
        """Remove a link."""
        (self._folder / link).unlink(missing_ok=True)
        if self._folder.is_dir():
            sync_path(self._folder)

    def repair(self) -> tuple[str, ...]:
        """Point lost links to the workload's newest committed slot; return one sentence per repair."""
        own = [each for each in self._store.committed() if each.desired.workload == self.workload]
        repaired = []
        for link, record in ((LAST_GOOD, self.last_good()), (ACTIVE, self.active())):
            if record is None and own:
                number = own[-1].desired.desired_number
                self.set_link(link, number)
                repaired.append(f"the lost link {link} of {self.workload} points to slot {number} again")
        return tuple(repaired)

    def rename(self, workload: str) -> None:
        """Give the links to the workload of another name."""
        target = self._store.root / WORKLOADS / workload
        if self._folder.is_dir():
            self._folder.rename(target)
            sync_path(target.parent)
        self.workload, self._folder = workload, target

    def remove(self) -> None:
        """Remove the links of a workload that the device is not to have any more."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)
            sync_path(self._folder.parent)


def linked_workloads(store: Store) -> tuple[str, ...]:
    """Return the workloads that have links, sorted by name."""
    return tuple(sorted(path.name for path in (store.root / WORKLOADS).glob("*") if path.is_dir()))


def linked_records(store: Store) -> list[SlotRecord]:
    """Return the slots that any link reaches."""
    links = [Links(store, workload) for workload in linked_workloads(store)]
    records = [record for each in links for record in (each.active(), each.last_good())]
    return [record for record in records if record is not None]


def adopt_single_links(store: Store, workload: str) -> None:
    """Give the links of an agent that knew one workload to `workload`; after a kill the next start continues.

    Raises:
        StorageFullError: the disk is full.
    """
    links = Links(store, workload)
    for link in (LAST_GOOD, ACTIVE):
        number = _number_in(store.root / link)
        if number is not None and links.linked_number(link) is None:
            links.set_link(link, number)
        (store.root / link).unlink(missing_ok=True)


def has_single_links(store: Store) -> bool:
    """Return True if the state directory has the links of an agent that knew one workload."""
    return any((store.root / link).is_symlink() for link in (ACTIVE, LAST_GOOD))


def _number_in(link: Path) -> int | None:
    try:
        name = link.readlink().name
    except OSError:
        return None
    return int(name) if name.isdecimal() else None
