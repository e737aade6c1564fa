"""The state that requests and background tasks of one cloud share."""

from __future__ import annotations

import secrets
from collections import Counter as Tally
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic

from cloud.db.changes import Changes
from cloud.db.database import Database
from cloud.messaging.client import MqttClient
from cloud.messaging.iothub import HubBridge
from cloud.registry.blobs import BlobStore
from cloud.state.certificates import DEVICE_DAYS
from cloud.state.directory import StateDirectory
from edgewright.contracts.connection.enrolment import BrokerAddress
from edgewright.contracts.files import write_atomically


@dataclass
class Cloud:
    """One running cloud."""

    state: StateDirectory
    database: Database
    changes: Changes
    blobs: BlobStore
    url: str
    """The address for devices and clients."""
    device_days: float = DEVICE_DAYS
    """Validity of a device certificate."""
    broker: BrokerAddress | None = None
    mqtt: MqttClient | None = None
    iothub: HubBridge | None = None
    requests: Tally[tuple[str, str, int]] = field(default_factory=Tally)
    """Number of answered requests by method, route and status."""
    last_used_s: float = field(default_factory=monotonic)
    """Monotonic time of the last answered request, seconds."""

    @cached_property
    def owner(self) -> str:
        """Id of this cloud among those that share a database, for what runs on its machine; the first use creates it."""
        path = self.state.path / "endpoints" / ".owner"
        if not path.is_file():
            write_atomically(path, secrets.token_hex(16).encode())
        return path.read_text("ascii")
