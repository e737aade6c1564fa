"""Devices whose identity is used by two agents, for example after an SD card was copied with the agent's state directory.

Each start of an agent has a random boot ID, which is in its presence and in its reports. A boot ID that comes back after
another one shows that both agents run: a restarted agent never uses an earlier ID.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import devices

_REMEMBERED = 8


def record_boot_id(connection: Connection, device: str, boot_id: str, now: datetime) -> None:
    """Store that an agent with `boot_id` spoke for a device at `now`; an earlier ID that returns marks the identity as shared.

    The caller has ruled out messages that a broker kept or sent in an agent's name: retained reports and last wills.
    """
    is_device = devices.c.device == device
    known = connection.execute(select(devices.c.boot_ids).where(is_device)).scalar_one_or_none()
    if not boot_id or (known and known[-1] == boot_id):
        return
    earlier = [each for each in known or () if each != boot_id]
    values: dict[str, object] = {"boot_ids": [*earlier, boot_id][-_REMEMBERED:]}
    if known and boot_id in known:
        values["identity_shared_at"] = now
        raise_counter(connection, Counter.CHANGES)
    connection.execute(update(devices).where(is_device).values(values))
