"""End a membership everywhere: in the database, which HTTPS asks on every request, and on the broker.

The broker learns of it in two steps: the revocation list keeps the device from coming back, and its session is taken over
under its own name, which ends the connection that it has (docs/spec/protocol.md P63).
"""

from __future__ import annotations

from datetime import datetime

from cloud.context import Cloud
from cloud.fleet import devices
from edgewright.contracts.messages import DeviceRecord


def revoke(cloud: Cloud, device: str, now: datetime) -> DeviceRecord:
    """Close every door to a device and return what is known of it."""
    with cloud.database.transaction() as connection:
        devices.revoke(connection, device, now)
    if cloud.mqtt is not None:
        cloud.mqtt.expel(device)
    with cloud.database.reading() as connection:
        return devices.record(connection, device, now)
