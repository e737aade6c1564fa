"""The workloads of the device: start them, give each its part of the desired state, add and remove some.

    start      the last active version of each workload, before the network is used
    take       a verified desired state: its parts go to the workloads; one that is not in it is removed
    run        the loops of every workload, until cancelled

A workload is known by its links or by its deployments. The last desired state is stored before it is acted upon, so a killed
agent continues with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from edge_agent.deployment.budget import Use
from edge_agent.deployment.journal import Journal
from edge_agent.deployment.workload import Shared, Workload
from edge_agent.storage.links import Links, adopt_single_links, has_single_links, linked_workloads
from edge_agent.storage.store import Store
from edgewright.contracts.messages import DesiredState
from edgewright.errors import StorageFullError
from hardware_profiles.memory import resident_bytes

_log = logging.getLogger(__name__)


class Sockets(Protocol):
    """The listening sockets of the workloads (`edge_agent/scoring/addresses.py`)."""

    async def socket_of(self, workload: str) -> socket.socket:
        """Return the socket of a workload's own port."""

    async def agent_socket_for(self, workload: str) -> socket.socket | None:
        """Return the agent's socket for the only workload, or None."""

    async def share(self) -> bool:
        """Route the agent's address to all workloads; return True if it was not routed before."""

    async def release_socket(self, workload: str) -> None:
        """Release the socket of a workload that was removed."""

    def rename_workload(self, workload: str, name: str) -> None:
        """Give the socket of a workload to its new name."""


class Workloads:
    """All workloads of the device."""

    def __init__(self, sockets: Sockets, shared: Shared) -> None:
        self._sockets = sockets
        self._shared = shared
        self._desired = shared.journal.device_desired()
        self._running: dict[str, Workload] = {}
        self._loops: dict[str, list[asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self._imported: dict[str, DesiredState] = {}
        """Imported states of workloads that do not run yet."""
        self.loading = asyncio.Lock()
        """Held while a workload loads a new version, or while a benchmark job runs."""
        self.keeps_files = False
        """True while a benchmark job needs files that no link reaches."""

    def __iter__(self) -> Iterator[Workload]:
        """Iterate over the workloads, sorted by name."""
        return iter([self._running[name] for name in sorted(self._running)])

    @property
    def are_settled(self) -> bool:
        """True if no workload needs files that no link reaches."""
        return all(each.deployer.is_settled and each.newer is None for each in self._running.values())

    async def start(self) -> None:
        """Start the last active version of each workload."""
        names = known_workloads(self._shared.store, self._shared.journal)
        oldest_first = sorted(names, key=lambda name: (_number(self._shared.journal, name), name))
        if len(oldest_first) > 1:
            await self._sockets.share()
        for name in oldest_first:
            self._running[name] = await self._make(name)
        await asyncio.gather(*(each.start() for each in self))
        if self._desired is not None:
            self._give(self._desired)

    def take(self, desired: DesiredState) -> None:
        """Take a verified desired state of the device; `run` adds and removes workloads."""
        self._rename_unconfirmed(desired)
        self._desired = desired
        with suppress(StorageFullError):  # the cloud sends it again after a restart
            self._shared.journal.store_device_desired(desired)
        self._give(desired)

    def take_import(self, desired: DesiredState) -> None:
        """Take the state of an imported package; it lasts until the cloud sends the workload another one."""
        if desired.workload in self._running:
            self._running[desired.workload].offer(desired)
        elif self._desired is None:
            self._imported[desired.workload] = desired
            self._changed.set()

    def connection_changed(self) -> None:
        """Let each workload continue if the device is online again."""
        for each in self:
            each.connection_changed()

    async def run(self) -> None:
        """Run the loops of every workload until cancelled; the first failure of one is raised."""
        try:
            for each in self:
                self._run_loops(each)
            while True:
                changed = asyncio.create_task(self._changed.wait())
                tasks = [task for loops in self._loops.values() for task in loops]
                try:
                    done, _ = await asyncio.wait({changed, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                for task in done - {changed}:
                    task.result()
                self._changed.clear()
                await self._add_and_remove()
        finally:
            for name in list(self._loops):
                await self._end_loops(name)

    async def stop(self) -> None:
        """Drain every runner."""
        await asyncio.gather(*(each.stop() for each in self))

    def _give(self, desired: DesiredState) -> None:
        for one in self._parts(desired):
            if one.workload in self._running:
                self._running[one.workload].offer(one)
        self._changed.set()

    def _parts(self, desired: DesiredState) -> tuple[DesiredState, ...]:
        """Return the desired state of each workload; a cloud that knows one per device means the only one, however named."""
        if desired.workloads is None and len(self._running) == 1:
            return (replace(desired, workload=next(iter(self._running))),)
        return desired.every_workload

    async def _add_and_remove(self) -> None:
        while self._imported:
            await self._add(self._imported.popitem()[1])
        desired = self._desired
        if desired is None:
            return
        for each in self:
            await each.supervisor.follow_name(each.name)
        parts = {one.workload: one for one in self._parts(desired)}
        if desired.workloads is not None:
            for name in sorted(self._running.keys() - parts.keys()):
                await self._remove(name, f"desired state {desired.desired_number} has no workload {name}")
        for name in sorted(parts.keys() - self._running.keys(), key=lambda name: parts[name].desired_number):
            await self._add(parts[name])

    async def _add(self, desired: DesiredState) -> None:
        """Start a workload and its loops, and offer it its desired state."""
        name = desired.workload
        if self._running:
            await self._share_address()
        workload = self._running[name] = await self._make(name)
        await workload.start()
        workload.offer(desired)
        self._run_loops(workload)

    async def _remove(self, name: str, reason: str) -> None:
        """End the loops and the runner of a workload, then remove its deployments and links; its files are collected later."""
        _log.warning("removing workload=%s reason=%r", name, reason)
        await self._end_loops(name)
        workload = self._running.pop(name)
        await workload.stop()
        await self._sockets.release_socket(name)
        with suppress(StorageFullError):  # the next start removes what is left
            workload.journal.remove(reason)
        workload.links.remove()
        self._shared.changed()
        for each in self:  # one of them collects the files
            each.wake_up()

    async def _make(self, name: str) -> Workload:
        server_socket = await self._sockets.socket_of(name)
        return Workload(name, self._shared, server_socket, await self._sockets.agent_socket_for(name))

    async def _share_address(self) -> None:
        """Let the router accept at the agent's address before the only workload stops to."""
        if await self._sockets.share():
            await asyncio.gather(*(each.supervisor.leave_agent_socket() for each in self))

    def _run_loops(self, workload: Workload) -> None:
        self._loops[workload.name] = [asyncio.create_task(loop) for loop in workload.run()]

    async def _end_loops(self, name: str) -> None:
        tasks: list[asyncio.Task[Any]] = list(self._loops.pop(name, []))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _rename_unconfirmed(self, desired: DesiredState) -> None:
        """Give the workload of an agent that knew one per device the name that the cloud has for it.

        Such an agent stored no name, so the workload is called after its model until a desired state names it.
        """
        is_confirmed = self._desired is not None and self._desired.workloads is not None
        if is_confirmed or desired.workloads is None or len(self._running) != 1:
            return
        (workload,) = self._running.values()
        current = workload.journal.current()
        same = [one for one in desired.workloads if current and one.desired_number == current.desired.desired_number]
        candidates = same or list(desired.workloads)
        if desired.of(workload.name) is not None or len(candidates) != 1:
            return
        old, new = workload.name, candidates[0].workload
        workload.rename(new)
        self._sockets.rename_workload(old, new)
        self._running[new] = self._running.pop(old)
        if old in self._loops:
            self._loops[new] = self._loops.pop(old)
        _log.info("renamed workload=%s from=%s", new, old)


class Others:
    """The other workloads, as a workload sees them (`budget.Beside`)."""

    def __init__(self, links: Links, workloads: Workloads) -> None:
        self._links = links
        self._workloads = workloads

    @property
    def loading(self) -> asyncio.Lock:
        """Lock that is held while a workload loads a new version."""
        return self._workloads.loading

    def may_collect(self) -> bool:
        """Return False while another workload or a benchmark job needs files that no link reaches yet."""
        return self._workloads.are_settled and not self._workloads.keeps_files

    def memory(self) -> list[Use]:
        """Return the memory of the other workloads' runners."""
        pids = [(each.name, each.supervisor.runner_pid) for each in self._others()]
        return [Use(name, 0 if pid is None else resident_bytes(pid)) for name, pid in pids]

    def disk(self) -> list[Use]:
        """Return the disk space that a removal of each other workload would free: blobs that no further one uses."""
        files = {each.name: _files(each.links) for each in self._workloads}
        uses = []
        for each in self._others():
            shared = {digest for name, own in files.items() if name != each.name for digest in own}
            own = files[each.name]
            uses.append(Use(each.name, sum(size for digest, size in own.items() if digest not in shared)))
        return uses

    def _others(self) -> list[Workload]:
        return [each for each in self._workloads if each.name != self._links.workload]


def _files(links: Links) -> dict[str, int]:
    """Return the sizes of the files of a workload's slots, by digest."""
    records = [record for record in (links.active(), links.last_good()) if record is not None]
    return {file.digest: file.size for record in records for file in record.files}


def known_workloads(store: Store, journal: Journal) -> tuple[str, ...]:
    """Return the workloads that the links and the deployments name; the committed slots name them where both were lost."""
    names = {*linked_workloads(store), *journal.workloads()}
    return tuple(sorted(names or {record.desired.workload for record in store.committed()}))


def open_journal(store: Store) -> Journal:
    """Open the journal and repair lost links and a lost journal from the slots on disk."""
    store.prepare()
    journal, damage = Journal.open(store.root)
    with suppress(StorageFullError):
        _adopt_single_workload(store, journal)
        if damage:
            _record_repair(journal, damage)
        names = set(known_workloads(store, journal))
        if damage:
            names |= {record.desired.workload for record in store.committed()}
        for name in sorted(names):
            view, links = journal.of(name), Links(store, name)
            for repair in links.repair():
                _record_repair(view, repair)
            active = links.active()
            if view.current() is None and active is not None:
                view.adopt(active.desired, "restored from the active slot")
    return journal


def _adopt_single_workload(store: Store, journal: Journal) -> None:
    """Move the links of an agent that knew one workload; the workload is named after its model."""
    if not has_single_links(store):
        return
    current, committed = journal.current(), store.committed()
    if current is not None:
        adopt_single_links(store, current.desired.workload)
    elif committed:
        adopt_single_links(store, committed[-1].desired.workload)


def _record_repair(journal: Journal, repair: str) -> None:
    _log.warning("repaired reason=%r", repair)
    journal.record("repair", repair)


def _number(journal: Journal, name: str) -> int:
    current = journal.of(name).current()
    return 0 if current is None else current.desired.desired_number
