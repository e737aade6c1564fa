"""The bridge to an IoT Hub: signed desired states go into the twins of devices, their reports come back.

It compares all twins of the hub with the cloud at a fixed interval, and as soon as a desired state changes, so no change is lost
while one of them does not run. A device of the hub is that of the cloud with the same name; others are left alone.
The hub authenticates the sender of a report. It cannot change a desired state, because the cloud's key signs it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cloud.db.database import Database
from cloud.fleet import devices, twins
from cloud.fleet.twins import SignedDesired
from cloud.iothub.client import HubClient
from edgewright.contracts import wire
from edgewright.contracts.iothub import twin_messages
from edgewright.contracts.iothub.connection_strings import parse_service
from edgewright.contracts.messages import ReportedState
from edgewright.errors import BadInputError, EdgewrightError, UnreachableError

_LOG = logging.getLogger("edgewright.cloud.iothub")


@dataclass(frozen=True, slots=True)
class _Seen:
    """State of a twin at the last comparison."""

    reported_version: int
    is_connected: bool


class HubBridge:
    """The bridge between one cloud and one hub."""

    def __init__(self, database: Database, client: HubClient, module: str = "") -> None:
        self._database = database
        self._client = client
        self._module = module
        """Module of each device whose twin is used; empty for the device's own twin."""
        self._seen: dict[str, _Seen] = {}

    def synchronise(self) -> None:
        """Compare every twin of the hub with the cloud: write desired states that differ, store new reports.

        Raises:
            UnreachableError: the hub does not answer.
            EdgewrightError: the hub refuses a request.
        """
        with self._database.reading() as connection:
            wanted = {each.device: each for each in twins.desired_changed_after(connection, 0)}
            enrolled = {each.device for each in devices.records(connection, datetime.now(UTC)) if not each.revoked}
        source = f"devices.modules WHERE moduleId = '{self._module}'" if self._module else "devices"
        for twin in self._client.query(f"SELECT * FROM {source}"):  # noqa: S608  the name of a module is checked
            device = str(twin["deviceId"])
            if device not in enrolled:
                continue
            try:
                self._store_report(device, twin)
                if device in wanted:
                    self._write_desired(wanted[device], twin)
            except UnreachableError:
                raise
            except EdgewrightError as error:  # one device must not stop the others
                _LOG.warning("cannot synchronise a twin device=%s error=%s", device, error)

    def _write_desired(self, wanted: SignedDesired, twin: Mapping[str, Any]) -> None:
        if twin_messages.join(twin["properties"]["desired"], twin_messages.ENVELOPE) == wanted.envelope:
            return
        message = {twin_messages.ENVELOPE: twin_messages.split(wanted.envelope), "desired_number": wanted.desired_number}
        path = f"/twins/{quote(wanted.device, safe='')}" + (f"/modules/{self._module}" if self._module else "")
        body = {"properties": {"desired": {twin_messages.PROPERTY: message}}}
        self._client.call("PATCH", path, body, headers={"Content-Type": "application/json"})
        _LOG.info("wrote desired device=%s desired_number=%d", wanted.device, wanted.desired_number)

    def _store_report(self, device: str, twin: Mapping[str, Any]) -> None:
        """Store a report that is new, and that a device has come or gone."""
        reported = twin["properties"]["reported"]
        now, before = datetime.now(UTC), self._seen.get(device)
        current = _Seen(int(reported["$version"]), twin.get("connectionState") == "Connected")
        self._seen[device] = current
        if before is None and not current.is_connected:
            return  # the cloud may have a newer report that came another way
        if before is None or before.reported_version != current.reported_version:
            body = twin_messages.join(reported, twin_messages.REPORT)
            if body is not None:
                report = wire.decode(body, ReportedState, what=f"the report of {device}")
                with self._database.transaction() as connection:
                    twins.store_report(connection, device, report, now)
        if before is not None and before.is_connected and not current.is_connected:
            with self._database.transaction() as connection:
                devices.mark_seen(connection, device, now, offline=True)


def open_bridge(database: Database, connection_string_file: Path, ca_file: Path | None, module: str = "") -> HubBridge:
    """Return the bridge to the hub of a service's connection string.

    Raises:
        BadInputError: the file has no such connection string, or the file of authorities cannot be used.
    """
    return HubBridge(database, hub_client(connection_string_file, ca_file), module)


def hub_client(connection_string_file: Path, ca_file: Path | None) -> HubClient:
    """Return a client of that hub, which does not connect yet; raises as `open_bridge` does."""
    try:
        text = connection_string_file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{connection_string_file} must be a file with the connection string of a hub: {error}") from error
    return HubClient.of(parse_service(text), ca_file)
