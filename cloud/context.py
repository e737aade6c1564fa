"""What every request and background task of one running cloud shares."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass, field

from cloud.db.changes import Changes
from cloud.db.database import Database
from cloud.messaging.client import MqttLink
from cloud.registry.blobs import BlobStore
from cloud.state.certificates import DEVICE_DAYS
from cloud.state.directory import StateDirectory
from edgewright.contracts.messages import BrokerAddress


@dataclass
class Cloud:
    """One running cloud."""

    state: StateDirectory
    database: Database
    changes: Changes
    blobs: BlobStore
    url: str
    """The address that devices and clients are told."""
    device_days: float = DEVICE_DAYS
    """How long a device's certificate lives."""
    broker: BrokerAddress | None = None
    mqtt: MqttLink | None = None
    requests: Tally[tuple[str, str, int]] = field(default_factory=Tally)
    """How many requests were answered, by method, route and status."""
