"""MQTT topics: `edgewright/v1/{tenant}/{device}/…`, `d/` towards the device, `u/` from it.

The same bodies travel over HTTPS where MQTT cannot pass (docs/spec/protocol.md). A device may use only the
topics under its own name; mosquitto enforces it with `pattern readwrite edgewright/v1/default/%u/#`.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.contracts.names import TENANT, check_name
from edgewright.errors import MessageError

PREFIX = "edgewright/v1"

DESIRED = "d/desired"
"""Retained, QoS 1: the signed desired state."""
TELEMETRY_ACK = "d/telemetry-ack"
"""QoS 1: the sequence up to which the cloud has stored measurements."""
REPORTED = "u/reported"
"""Retained, QoS 1: the last reported state."""
TELEMETRY = "u/telemetry"
"""QoS 1: a batch of measurements."""
PRESENCE = "u/presence"
"""Retained, QoS 1: `online` from the device, `offline` as its last will."""


@dataclass(frozen=True, slots=True)
class DeviceTopic:
    """The parts of a topic."""

    tenant: str
    device: str
    suffix: str


def topic(device: str, suffix: str, tenant: str = TENANT) -> str:
    """Return the full topic of `suffix` for a device."""
    return f"{PREFIX}/{tenant}/{check_name(device, 'device')}/{suffix}"


def from_all_devices(suffix: str, tenant: str = TENANT) -> str:
    """Return the filter that matches `suffix` of every device."""
    return f"{PREFIX}/{tenant}/+/{suffix}"


def parse_topic(text: str) -> DeviceTopic:
    """Parse a topic; raise `MessageError` if it is not one of ours."""
    parts = text.split("/", 4)
    if len(parts) != 5 or "/".join(parts[:2]) != PREFIX:
        raise MessageError(f"a topic must be {PREFIX}/tenant/device/…, not {text!r}")
    return DeviceTopic(tenant=parts[2], device=parts[3], suffix=parts[4])
