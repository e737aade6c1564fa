"""One workload of the device: its links, its deployments, its runner, and the loop that takes the steps of its plan.

Workloads share the blobs, the journal's file and the connection to the cloud; nothing that one does changes another one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edge_agent.deployment.budget import Beside
from edge_agent.deployment.deployer import Deployer
from edge_agent.deployment.journal import Journal
from edge_agent.deployment.plan import Action, Situation, next_step
from edge_agent.deployment.states import BEFORE_THE_SWITCH
from edge_agent.drivers.process import RunnerOptions, ScoringSockets
from edge_agent.link.connection import Connection
from edge_agent.scoring.supervisor import Supervisor
from edge_agent.settings import Settings
from edge_agent.storage.imports import Imports
from edge_agent.storage.links import Links
from edge_agent.storage.store import SlotRecord, Store
from edgewright.contracts.messages import DesiredState
from edgewright.errors import OperationError, StorageFullError

_log = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
LONGEST_WAIT_FOR_SPACE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Parts of the agent that all workloads use."""

    settings: Settings
    store: Store
    journal: Journal
    connection: Connection
    changed: Callable[[], None]
    """Called after every change that is to be reported."""
    trouble_changed: Callable[[str, str, bool], None]
    """Called with a workload, the reason why its version does not run, and True if a damaged slot is fetched again."""
    beside: Callable[[Links], Beside]
    """Returns the facts about the other workloads, for the workload of these links."""


class Workload:
    """One workload and its loop."""

    def __init__(self, name: str, shared: Shared, server_socket: socket.socket, agent_socket: socket.socket | None) -> None:
        self.name = name
        self.newer: DesiredState | None = None
        """The verified desired state that was not accepted yet."""
        self.journal = shared.journal.of(name)
        self.links = Links(shared.store, name)
        settings = shared.settings
        self.supervisor = Supervisor(
            name,
            ScoringSockets(server_socket, agent_socket),
            lambda record: shared.store.slot_path(record.desired.desired_number),
            _runner_options(settings),
            self._runner_failed,
        )
        self.deployer = Deployer(
            settings,
            shared.store,
            self.links,
            journal=self.journal,
            supervisor=self.supervisor,
            changed=shared.changed,
            beside=shared.beside(self.links),
        )
        self._shared = shared
        self._settings = settings
        self._imports = Imports(shared.store.root)
        self._connection = shared.connection
        self._wake_up = asyncio.Event()
        self._interruptible: asyncio.Task[None] | None = None
        self._counted_at_s = time.monotonic()

    async def start(self) -> None:
        """Start the last active version; one that does not start is tried again by the supervisor."""
        with suppress(StorageFullError):  # a full disk must not prevent scoring
            self.deployer.resume()
        repairs = self.deployer.repairs
        repairs.inspect()
        self._trouble_changed()
        active, last_good = self.links.active(), self.links.last_good()
        if active is not None:
            await self.supervisor.start(active)
            if repairs.damaged == active.desired and last_good not in (None, active):
                assert last_good is not None
                await self.supervisor.start(last_good)
        elif repairs.trouble is None:
            await self.supervisor.open_placeholder()
        else:
            await self.supervisor.open_placeholder(f"no model runs on this device: {repairs.trouble.reason}")

    def run(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the endless loops of the workload."""
        return (
            self.supervisor.watch(),
            self.supervisor.probe_forever(self._settings.probe_every_s),
            self._reconcile(),
        )

    async def stop(self) -> None:
        """Drain the runner; the loops must have ended."""
        await self.supervisor.stop()
        await self.supervisor.close_placeholders()

    def offer(self, desired: DesiredState) -> None:
        """Take a desired state, if it is newer than the accepted one.

        It interrupts a repair, or a step that has not changed the running version.
        """
        current = self.journal.current()
        if desired.desired_number <= self.journal.highest_number(imported=desired.is_imported):
            return
        if self.newer is not None and self.newer.is_imported:
            self._imports.remove(self.newer.desired_number)
        self.newer = desired
        self._wake_up.set()
        if self._interruptible is None or current is None:
            return
        if current.state in BEFORE_THE_SWITCH or current.state.is_final:
            self._interruptible.cancel()

    def wake_up(self) -> None:
        """Let the loop look for its next step."""
        self._wake_up.set()

    def rename(self, name: str) -> None:
        """Change the name of the workload, which continues to run."""
        self.links.rename(name)
        self.journal.rename(name)
        self.name = name

    def connection_changed(self) -> None:
        """Retry at once if the device is online again."""
        if self._connection.is_online:
            self.deployer.retry_now()
        self._wake_up.set()

    async def _reconcile(self) -> None:
        """Take the steps of the plan forever; a full disk pauses them while the runner continues to score."""
        while True:
            self._wake_up.clear()
            try:
                await self._take_next_step()
            except StorageFullError as error:
                self.deployer.block(str(error))
                await asyncio.sleep(max(self._settings.retry_base_s, min(self.deployer.retry_in_s, LONGEST_WAIT_FOR_SPACE_S)))
            else:
                self.deployer.unblock()

    async def _take_next_step(self) -> None:
        self._count_online_time()
        step = next_step(self._situation())
        if step.action is Action.WAIT:
            self.deployer.settle()
            await self._wait()
        elif step.action is Action.ACCEPT:
            assert self.newer is not None
            await self.deployer.accept(self.newer, step.reason)
            self.newer = None
        else:
            await self._run_interruptible(self.deployer.take(step))

    def _runner_failed(self, record: SlotRecord, error: OperationError | None) -> None:
        self.deployer.repairs.runner_failed(record, error)
        self._trouble_changed()

    def _trouble_changed(self) -> None:
        repairs = self.deployer.repairs
        reason = "" if repairs.trouble is None else repairs.trouble.reason
        self._shared.trouble_changed(self.name, reason, repairs.damaged is not None)
        self._wake_up.set()
        self._shared.changed()

    def _situation(self) -> Situation:
        deployment = self.journal.current()
        is_here = deployment is not None and self._imports.package(deployment.desired.desired_number) is not None
        return Situation(
            deployment=deployment,
            newer=self.newer,
            online=self._connection.is_online or is_here,
            retry_due=self.deployer.retry_in_s == 0,
            damage=self.deployer.repairs.damage,
        )

    async def _run_interruptible(self, step: Coroutine[Any, Any, None]) -> None:
        """Carry out a step as a task that `offer` can cancel."""
        task = asyncio.create_task(step)
        self._interruptible = task
        try:
            await asyncio.wait({task})
        finally:
            self._interruptible = None
            task.cancel()
        if not task.cancelled():
            task.result()

    async def _wait(self) -> None:
        pause_s = min(LONGEST_WAIT_S, self.deployer.retry_in_s or LONGEST_WAIT_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake_up.wait()

    def _count_online_time(self) -> None:
        """Add the time since the last call to the deployment's online time, unless the device is offline."""
        now_s = time.monotonic()
        passed_s, self._counted_at_s = now_s - self._counted_at_s, now_s
        self.deployer.count(passed_s if self._connection.is_online else 0.0)


def _runner_options(settings: Settings) -> RunnerOptions:
    return RunnerOptions(
        backend=settings.backend,
        threads=settings.threads,
        load_timeout_s=settings.load_timeout_s,
        check_timeout_s=settings.check_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
        inference_timeout_s=settings.inference_timeout_s,
        container=settings.container,
    )
