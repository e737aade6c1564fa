"""The resident agent: reconciles the device with the cloud's desired state.

    start      run the last active version of each workload, before the network is used
    verify     accept a desired state only if the device's cloud signed it, for this device, with a higher number
    reconcile  each workload for itself: plan.py decides on the next step, deployer.py carries it out, journal.py stores it first
    renew      renew the certificate in time, so that the cloud keeps accepting the device
    benchmark  run the cloud's benchmark jobs while no deployment is in progress
    report     send the reported state after every change, and telemetry from a queue on disk

Expensive or risky work runs in other processes: verification, renewal, fetching, checks, scoring. After a kill the agent
continues from the journal.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any

from edge_agent.deployment.imports import ImportInbox
from edge_agent.deployment.inbox import DesiredInbox
from edge_agent.deployment.remote_benchmarks import RemoteBenchmarks
from edge_agent.deployment.workload import Shared
from edge_agent.deployment.workloads import Others, Workloads, open_journal
from edge_agent.identity.identity import Identity
from edge_agent.link.connection import Connection
from edge_agent.link.https import HttpsTransport
from edge_agent.link.mqtt import MqttTransport
from edge_agent.link.transport import Receiver, Transport
from edge_agent.renewal import Renewer
from edge_agent.settings import Settings, TransportChoice
from edge_agent.state_directory import StateDirectory
from edge_agent.storage.imports import Imports
from edge_agent.storage.store import Store
from edge_agent.telemetry.metrics import TelemetrySender
from edge_agent.telemetry.outbox import Acknowledgements, Outbox
from edge_agent.telemetry.reporter import Reporter, Sender
from edgewright.contracts import wire
from edgewright.contracts.messages import DesiredState
from edgewright.errors import BadInputError

_ANSWER_FIRST_S = 0.5
"""Time for the answer of a direct method to leave before the connection is closed."""


class Agent:
    """The agent of one device."""

    def __init__(self, directory: StateDirectory, settings: Settings) -> None:
        identity = directory.identity
        sender = Sender(device=identity.device, profile=identity.enrolment.profile, boot_id=secrets.token_hex(8))
        self._directory = directory
        self._report_due = asyncio.Event()
        store = Store(directory.path)
        self._journal = open_journal(store)
        self._outbox = Outbox.open(directory.path, identity.device, settings.telemetry_quota_bytes)
        self._inbox = DesiredInbox(directory.path, self._journal, settings.retry_base_s, self._take_desired)
        acknowledgements = Acknowledgements(self._outbox, lambda call: self._benchmarks.take(call))
        receiver = Receiver(self._inbox, acknowledgements)
        self._connection = Connection(
            [self._iothub(identity, settings, receiver)]
            if settings.transport is TransportChoice.IOTHUB
            else make_transports(identity, sender.boot_id, settings.transport, receiver),
            self._connection_changed,
            base_s=settings.retry_base_s,
            cap_s=settings.retry_cap_s,
            return_every_s=settings.return_every_s,
        )
        shared = Shared(
            settings=settings,
            store=store,
            journal=self._journal,
            connection=self._connection,
            changed=self._report_due.set,
            trouble_changed=directory.write_trouble,
            beside=lambda links: Others(links, self._workloads),
        )
        self._workloads = Workloads(directory.addresses, shared)
        self._imports = ImportInbox(Imports(directory.path), self._journal, self._workloads.take_import)
        self._benchmarks = RemoteBenchmarks(directory.path, settings, self._workloads)
        self._renewer = Renewer(directory, settings, self._connection, self._journal.record)
        self._reporter = Reporter(sender, settings, self._workloads, self._connection, self._report_due)
        self._telemetry = TelemetrySender(settings, self._workloads, self._connection, self._outbox, acknowledgements)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set: start the active versions, then connect, reconcile and report."""
        await self._directory.addresses.open_placeholder()
        await self._workloads.start()
        await run_until(
            stop,
            self._directory.addresses.watch(),
            self._workloads.run(),
            self._connection.run_forever(),
            self._renewer.run_forever(),
            self._inbox.verify_forever(),
            self._imports.watch_forever(),
            self._reporter.report_forever(),
            self._telemetry.measure_forever(),
            self._telemetry.deliver_forever(),
            self._benchmarks.run_forever(),
        )
        await self._workloads.stop()
        await self._directory.addresses.stop()
        self._journal.close()
        self._outbox.close()

    def _iothub(self, identity: Identity, settings: Settings, receiver: Receiver) -> Transport:
        """Return the transport over an IoT Hub; its direct methods are `status`, `report` and `reconnect`."""
        # Imported here, because only this transport needs the modules, and the memory of the resident process is limited.
        from edge_agent.link.iothub.sources import source_of
        from edge_agent.link.iothub.transport import HubTimes, IotHubTransport

        if settings.iothub is None:
            raise BadInputError("transport iothub needs the table [iothub] in agent.toml, but it is missing")
        commands = {"status": self._command_status, "report": self._command_report, "reconnect": self._command_reconnect}
        times = HubTimes(ping_s=settings.iothub.ping_s, token_s=settings.iothub.token_s)
        return IotHubTransport(identity.device, source_of(settings.iothub, identity.device), receiver, commands, times)

    def _command_status(self, _payload: object) -> object:
        return wire.to_plain(self._reporter.compose())

    def _command_report(self, _payload: object) -> object:
        self._report_due.set()
        return {"requested": "report"}

    def _command_reconnect(self, _payload: object) -> object:
        asyncio.get_running_loop().call_later(_ANSWER_FIRST_S, self._connection.reconnect, "requested by a direct method")
        return {"requested": "reconnect"}

    def _take_desired(self, desired: DesiredState) -> None:
        self._workloads.take(desired)

    def _connection_changed(self) -> None:
        self._workloads.connection_changed()
        self._directory.write_status(
            online=self._connection.is_online, transport=self._connection.transport, problem=self._connection.problem
        )
        self._report_due.set()


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
