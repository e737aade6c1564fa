"""The resident agent: reconciles the device with the cloud's desired state.

    start      run the last active version, before the network is used
    verify     accept a desired state only if the device's cloud signed it, for this device, with a higher number
    reconcile  plan.py decides on the next step, deployer.py carries it out, journal.py stores it first
    renew      renew the certificate in time, so that the cloud keeps accepting the device
    report     send the reported state after every change, and telemetry from a queue on disk

Expensive or risky work runs in other processes: verification, renewal, fetching, checks, scoring. After a kill the agent
continues from the journal.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_agent.deployment.deployer import Deployer
from edge_agent.deployment.inbox import DesiredInbox
from edge_agent.deployment.journal import Journal
from edge_agent.deployment.plan import Action, Situation, next_step
from edge_agent.deployment.states import BEFORE_THE_SWITCH
from edge_agent.drivers.process import RunnerOptions
from edge_agent.identity.identity import Identity
from edge_agent.link.connection import Connection
from edge_agent.link.https import HttpsTransport
from edge_agent.link.mqtt import MqttTransport
from edge_agent.link.transport import Receiver, Transport
from edge_agent.renewal import Renewer
from edge_agent.scoring.supervisor import Supervisor
from edge_agent.settings import Settings, TransportChoice
from edge_agent.state_directory import StateDirectory
from edge_agent.storage.store import SlotRecord, Store
from edge_agent.telemetry.metrics import TelemetrySender
from edge_agent.telemetry.outbox import Acknowledgements, Outbox
from edge_agent.telemetry.reporter import Reporter, Sender
from edgewright.errors import BadInputError, OperationError, StorageFullError

_log = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
LONGEST_WAIT_FOR_SPACE_S = 30.0


class Agent:
    """The agent of one device."""

    def __init__(self, directory: StateDirectory, settings: Settings) -> None:
        identity = directory.identity
        sender = Sender(device=identity.device, profile=identity.enrolment.profile, boot_id=secrets.token_hex(8))
        self._directory = directory
        self._settings = settings
        self._wake_up = asyncio.Event()
        self._report_due = asyncio.Event()
        self._interruptible: asyncio.Task[None] | None = None
        self._counted_at_s = time.monotonic()
        self._store = Store(directory.path)
        self._journal = open_journal(self._store)
        self._outbox = Outbox.open(directory.path, identity.device, settings.telemetry_quota_bytes)
        self._supervisor = Supervisor(directory.server_socket, self._slot_of, _runner_options(settings), self._runner_failed)
        self._deployer = Deployer(settings, self._store, self._journal, self._supervisor, self._report_due.set)
        self._inbox = DesiredInbox(directory.path, self._journal, settings.retry_base_s, self._desired_changed)
        acknowledgements = Acknowledgements(self._outbox)
        self._connection = Connection(
            make_transports(identity, sender.boot_id, settings.transport, Receiver(self._inbox, acknowledgements)),
            self._connection_changed,
            base_s=settings.retry_base_s,
            cap_s=settings.retry_cap_s,
            return_every_s=settings.return_every_s,
        )
        self._renewer = Renewer(directory, settings, self._connection, self._journal.record)
        self._reporter = Reporter(
            sender,
            settings,
            journal=self._journal,
            deployer=self._deployer,
            supervisor=self._supervisor,
            connection=self._connection,
            due=self._report_due,
        )
        self._telemetry = TelemetrySender(settings, self._supervisor, self._connection, self._outbox, acknowledgements)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set: start the active version, then connect, reconcile and report."""
        with suppress(StorageFullError):  # a full disk must not prevent scoring
            self._deployer.resume()
        await self._start_active_version()
        await run_until(
            stop,
            self._supervisor.watch(),
            self._supervisor.probe_forever(self._settings.probe_every_s),
            self._connection.run_forever(),
            self._renewer.run_forever(),
            self._inbox.verify_forever(),
            self._reconcile(),
            self._reporter.report_forever(),
            self._telemetry.measure_forever(),
            self._telemetry.deliver_forever(),
        )
        await self._supervisor.stop()
        self._journal.close()
        self._outbox.close()

    async def _start_active_version(self) -> None:
        self._deployer.repairs.inspect()
        self._trouble_changed()
        active, last_good = self._store.active(), self._store.last_good()
        if active is not None:
            await self._supervisor.start(active)
            if self._deployer.repairs.damaged == active.desired and last_good not in (None, active):
                assert last_good is not None
                await self._supervisor.start(last_good)
        elif self._deployer.repairs.trouble is None:
            await self._supervisor.open_placeholder()
        else:
            await self._supervisor.open_placeholder(f"no model runs on this device: {self._deployer.repairs.trouble.reason}")

    async def _reconcile(self) -> None:
        """Take the steps of the plan forever; a full disk pauses them while the runner continues to score."""
        while True:
            self._wake_up.clear()
            try:
                await self._take_next_step()
            except StorageFullError as error:
                self._deployer.block(str(error))
                await asyncio.sleep(max(self._settings.retry_base_s, min(self._deployer.retry_in_s, LONGEST_WAIT_FOR_SPACE_S)))
            else:
                self._deployer.unblock()

    async def _take_next_step(self) -> None:
        self._count_online_time()
        step = next_step(self._situation())
        if step.action is Action.WAIT:
            self._deployer.settle()
            await self._wait()
        elif step.action is Action.ACCEPT:
            assert self._inbox.newer is not None
            await self._deployer.accept(self._inbox.newer, step.reason)
            self._inbox.newer = None
        else:
            await self._run_interruptible(self._deployer.take(step))

    def _runner_failed(self, record: SlotRecord, error: OperationError | None) -> None:
        self._deployer.repairs.runner_failed(record, error)
        self._trouble_changed()

    def _trouble_changed(self) -> None:
        repairs = self._deployer.repairs
        reason = "" if repairs.trouble is None else repairs.trouble.reason
        self._directory.write_trouble(reason, is_repairing=repairs.damaged is not None)
        self._wake_up.set()
        self._report_due.set()

    def _situation(self) -> Situation:
        return Situation(
            deployment=self._journal.current(),
            newer=self._inbox.newer,
            online=self._connection.is_online,
            retry_due=self._deployer.retry_in_s == 0,
            damage=self._deployer.repairs.damage,
        )

    def _desired_changed(self) -> None:
        """Let the plan see a newer desired state; interrupt a step that has not changed the running version, and a repair."""
        self._wake_up.set()
        current = self._journal.current()
        if self._interruptible is None or current is None:
            return
        if current.state in BEFORE_THE_SWITCH or current.state.is_final:
            self._interruptible.cancel()

    async def _run_interruptible(self, step: Coroutine[Any, Any, None]) -> None:
        """Carry out a step as a task that `_desired_changed` can cancel."""
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
        pause_s = min(LONGEST_WAIT_S, self._deployer.retry_in_s or LONGEST_WAIT_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake_up.wait()

    def _connection_changed(self) -> None:
        if self._connection.is_online:
            self._deployer.retry_now()
        self._directory.write_status(
            online=self._connection.is_online, transport=self._connection.transport, problem=self._connection.problem
        )
        self._wake_up.set()
        self._report_due.set()

    def _count_online_time(self) -> None:
        """Add the time since the last call to the deployment's online time, unless the device is offline."""
        now_s = time.monotonic()
        passed_s, self._counted_at_s = now_s - self._counted_at_s, now_s
        self._deployer.count(passed_s if self._connection.is_online else 0.0)

    def _slot_of(self, record: SlotRecord) -> Path:
        return self._store.slot_path(record.desired.desired_number)


def make_transports(identity: Identity, boot_id: str, choice: TransportChoice, receiver: Receiver) -> list[Transport]:
    """Return the transports in order of preference.

    Raises:
        BadInputError: MQTT is required, but the cloud has no broker.
    """
    broker = identity.enrolment.response.broker
    transports: list[Transport] = []
    if choice is not TransportChoice.HTTPS and broker is not None:
        transports.append(MqttTransport(broker, identity.device, boot_id, identity.tls_context, receiver))
    if choice is not TransportChoice.MQTT:
        transports.append(HttpsTransport(identity.url, identity.tls_context, receiver))
    if not transports:
        raise BadInputError("transport mqtt needs a broker, but the cloud has no broker: use --transport https")
    return transports


def open_journal(store: Store) -> Journal:
    """Open the journal and repair lost links and a lost journal from the slots on disk."""
    store.prepare()
    journal, damage = Journal.open(store.root)
    with suppress(StorageFullError):
        for repair in (*([damage] if damage else []), *store.repair_links()):
            _log.warning("repaired reason=%r", repair)
            journal.record("repair", repair)
        active = store.active()
        if journal.current() is None and active is not None:
            journal.adopt(active.desired, "restored from the active slot")
    return journal


async def run_until(stop: asyncio.Event, *endless: Coroutine[Any, Any, None]) -> None:
    """Run endless coroutines until `stop` is set; the first failure cancels the others and is raised."""
    tasks = [asyncio.create_task(work) for work in endless]
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            task.result()
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)


def _runner_options(settings: Settings) -> RunnerOptions:
    return RunnerOptions(
        backend=settings.backend,
        threads=settings.threads,
        load_timeout_s=settings.load_timeout_s,
        check_timeout_s=settings.check_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
        inference_timeout_s=settings.inference_timeout_s,
    )
