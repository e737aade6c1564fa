"""The agent of one device: a process that stays, and makes the device be what its cloud wishes.

    start      whatever ran last runs again, before anything touches the network
    weigh      a wish counts when the device's own cloud signed it, for this device, newer than the last
    reconcile  plan.py says what comes next, deployer.py does it, journal.py stores each step before it counts
    renew      the certificate in good time, so that the cloud never locks the device out
    tell       a report on every change, telemetry from a queue on disk

Everything heavy or risky is another process: weighing wishes, renewing, fetching, checking, scoring. Killed anywhere, the
agent continues where it was.
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
from edge_agent.deployment.journal import Journal
from edge_agent.deployment.plan import Action, Situation, next_step
from edge_agent.deployment.states import BEFORE_THE_SWITCH
from edge_agent.drivers.process import RunnerOptions
from edge_agent.link.connection import Connection
from edge_agent.link.https import HttpsTransport
from edge_agent.link.mqtt import MqttTransport
from edge_agent.link.transport import Receiver, Transport
from edge_agent.renewal import Renewer
from edge_agent.scoring.supervisor import Supervisor
from edge_agent.settings import Settings, TransportChoice
from edge_agent.state_directory import House
from edge_agent.storage.store import SlotRecord, Store
from edge_agent.telemetry.outbox import Outbox
from edge_agent.telemetry.reporter import Reporter
from edge_agent.workers.orders import BeliefOrder
from edge_agent.workers.worker import Failure, run_worker
from edgewright.contracts.messages import DesiredState
from edgewright.errors import BadInputError, StorageFullError

_log = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
WEIGH_TIMEOUT_S = 60.0


class Agent:
    """One device's agent; `run` is its life."""

    def __init__(self, house: House, settings: Settings) -> None:
        self._house = house
        self._settings = settings
        self._boot_id = secrets.token_hex(8)
        self._store = Store(house.path)
        self._journal = open_journal(self._store)
        self._outbox = Outbox.open(house.path, house.identity.device, settings.telemetry_quota_bytes)
        self._news = asyncio.Event()
        self._wishes: asyncio.Queue[bytes] = asyncio.Queue()
        self._weighed: bytes | None = None
        self._newer: DesiredState | None = None
        self._interruptible: asyncio.Task[None] | None = None
        self._counted_at_s = time.monotonic()
        self._supervisor = Supervisor(house.listening, self._slot_of, _runner_options(settings))
        self._deployer = Deployer(settings, self._store, self._journal, self._supervisor, self._changed)
        self._connection = Connection(
            self._transports(),
            self._connection_changed,
            base_s=settings.retry_base_s,
            cap_s=settings.retry_cap_s,
            return_every_s=settings.return_every_s,
        )
        self._renewer = Renewer(house, settings, self._connection, self._journal.remember)
        self._reporter = Reporter(
            settings,
            self._journal,
            self._supervisor,
            self._connection,
            self._outbox,
            device=house.identity.device,
            profile=house.identity.membership.profile,
            boot_id=self._boot_id,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Live until `stop`: start what ran, then connect, reconcile and tell."""
        with suppress(StorageFullError):  # a full disk shall not keep the device from scoring
            self._deployer.resume()
        await self._start_what_ran()
        await until(
            stop,
            self._supervisor.watch(),
            self._supervisor.probe_always(self._settings.probe_every_s),
            self._connection.keep(),
            self._renewer.keep(),
            self._weigh_always(),
            self._reconcile(),
            self._reporter.report_always(),
            self._reporter.measure_always(),
            self._reporter.deliver_always(),
        )
        await self._supervisor.stop()
        self._journal.close()
        self._outbox.close()

    async def _start_what_ran(self) -> None:
        """Offline or not, the device scores first."""
        active = self._store.active()
        if active is None:
            await self._supervisor.open_reception()
        else:
            await self._supervisor.want(active)

    async def _reconcile(self) -> None:
        """Take the next step of the plan, for ever; wait when there is none."""
        while True:
            self._news.clear()
            try:
                await self._take_next_step()
            except StorageFullError as full:
                await self._wait_for_room(full)

    async def _take_next_step(self) -> None:
        self._count_online()
        step = next_step(self._situation())
        if step.action is Action.WAIT:
            self._deployer.settle()
            await self._wait_for_news()
        elif step.action is Action.ACCEPT:
            assert self._newer is not None
            await self._deployer.accept(self._newer, step.reason)
            self._newer = None
        else:
            await self._unless_newer(self._deployer.take(step))
        self._reporter.hindrance = None

    def _situation(self) -> Situation:
        return Situation(
            deployment=self._journal.current(),
            newer=self._newer,
            online=self._connection.is_online,
            retry_due=self._deployer.retry_in_s == 0,
        )

    def _wished(self, envelope: bytes) -> None:
        """Take in a wish from the cloud, to be weighed; the one that was weighed last comes again at every connection."""
        if envelope != self._weighed:
            self._wishes.put_nowait(envelope)

    async def _weigh_always(self) -> None:
        """Weigh one wish after the other; what is not believed is told and changes nothing."""
        while True:
            envelope = await self._wishes.get()
            if envelope == self._weighed:
                continue
            order = BeliefOrder(state_directory=str(self._house.path), envelope=envelope, accepted=self._highest_wish())
            answer = await run_worker("edge_agent.deployment.verify_desired", order, timeout_s=WEIGH_TIMEOUT_S)
            if answer.desired is not None:
                self._want(answer.desired)
            elif answer.failure is Failure.REFUSED:
                self._refuse_wish(answer.reason)
            elif answer.failure is not None:  # the worker's trouble, not the wish's
                _log.warning("not weighed reason=%r", answer.reason)
                await asyncio.sleep(self._settings.retry_base_s)
                self._wishes.put_nowait(envelope)
                continue
            self._weighed = envelope

    def _want(self, desired: DesiredState) -> None:
        """Let the plan look at a wish that is believed; a step that has not touched the running version gives way to it."""
        _log.info("wished desired_number=%d package=%s:%d", desired.desired_number, desired.model, desired.version)
        self._newer = desired
        self._news.set()
        current = self._journal.current()
        if self._interruptible is not None and current is not None and current.state in BEFORE_THE_SWITCH:
            self._interruptible.cancel()

    def _refuse_wish(self, reason: str) -> None:
        _log.warning("refused wish reason=%r", reason)
        with suppress(StorageFullError):
            self._journal.remember("refuse_wish", reason)

    def _highest_wish(self) -> int:
        current = self._journal.current()
        stored = current.desired.desired_number if current else 0
        return max(stored, self._newer.desired_number if self._newer else 0)

    async def _unless_newer(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a step; a newer wish calls it off where the version that runs is not touched yet."""
        task = asyncio.create_task(work)
        self._interruptible = task
        try:
            await asyncio.wait({task})
        finally:
            self._interruptible = None
            task.cancel()
        if not task.cancelled():
            task.result()

    async def _wait_for_news(self) -> None:
        pause_s = min(LONGEST_WAIT_S, self._deployer.retry_in_s or LONGEST_WAIT_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._news.wait()

    async def _wait_for_room(self, full: StorageFullError) -> None:
        """A full disk stops no runner: say so, wait, try the same step again."""
        self._reporter.hindrance = str(full)
        _log.warning("waiting reason=%r", str(full))
        try:
            self._deployer.wait(str(full))
        except StorageFullError:
            self._reporter.changed()  # not even the journal has room; the report still says it
        await asyncio.sleep(max(self._settings.retry_base_s, min(self._deployer.retry_in_s, 30.0)))

    def _changed(self) -> None:
        self._reporter.changed()

    def _connection_changed(self) -> None:
        if self._connection.is_online:
            self._deployer.retry_now()
        self._house.describe(
            online=self._connection.is_online, transport=self._connection.transport, problem=self._connection.problem
        )
        self._news.set()
        self._reporter.changed()

    def _count_online(self) -> None:
        """Add the time since the last count to the deployment's deadline, when it was spent online."""
        now_s = time.monotonic()
        passed_s, self._counted_at_s = now_s - self._counted_at_s, now_s
        self._deployer.count(passed_s if self._connection.is_online else 0.0)

    def _slot_of(self, record: SlotRecord) -> Path:
        return self._store.slot_path(record.desired.desired_number)

    def _transports(self) -> list[Transport]:
        """The transports in the order of preference."""
        identity, choice = self._house.identity, self._settings.transport
        receiver = Receiver(
            wished=self._wished, acknowledged=lambda raw: self._reporter.acknowledged(raw), have=self._highest_wish
        )
        broker = identity.membership.response.broker
        found: list[Transport] = []
        if choice is not TransportChoice.HTTPS and broker is not None:
            found.append(MqttTransport(broker, identity.device, self._boot_id, identity.tls_context, receiver))
        if choice is not TransportChoice.MQTT:
            found.append(HttpsTransport(identity.url, identity.tls_context, receiver))
        if not found:
            raise BadInputError("transport mqtt needs a broker, but the cloud named none at enrolment: use --transport https")
        return found


def open_journal(store: Store) -> Journal:
    """Open what is stored, and repair it from what lies on the disk: links from slots, a lost journal from the active slot."""
    store.prepare()
    journal, damage = Journal.open(store.root)
    with suppress(StorageFullError):
        for repair in (*([damage] if damage else []), *store.repair_links()):
            _log.warning("repaired reason=%r", repair)
            journal.remember("repair", repair)
        active = store.active()
        if journal.current() is None and active is not None:
            journal.adopt(active.desired, "taken over from the slot that is active")
    return journal


async def until(stop: asyncio.Event, *endless: Coroutine[Any, Any, None]) -> None:
    """Run tasks that never end until `stop`; the first that fails ends all and is raised."""
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
        drain_timeout_s=settings.drain_timeout_s,
    )
