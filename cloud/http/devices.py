"""Devices as operators see them."""

from __future__ import annotations

from cloud import membership
from cloud.auth import Access
from cloud.fleet import devices
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.messages import DeviceRecord


def list_devices(call: Call) -> list[DeviceRecord]:
    """Return every device."""
    with call.cloud.database.reading() as connection:
        return devices.records(connection, call.now)


def show_device(call: Call) -> DeviceRecord:
    """Return one device."""
    with call.cloud.database.reading() as connection:
        return devices.record(connection, call.path("device"), call.now)


def replace_labels(call: Call) -> DeviceRecord:
    """Replace the labels of a device."""
    with call.cloud.database.transaction() as connection:
        devices.set_labels(connection, call.path("device"), call.body)
        return devices.record(connection, call.path("device"), call.now)


def revoke_device(call: Call) -> DeviceRecord:
    """Close every door to a device."""
    return membership.revoke(call.cloud, call.path("device"), call.now)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/devices",
        access=Access.OPERATOR,
        summary="Every device: both sides of its twin, labels, presence.",
        handler=list_devices,
        gives=list[DeviceRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/devices/{device}",
        access=Access.OPERATOR,
        summary="One device.",
        handler=show_device,
        gives=DeviceRecord,
    ),
    Endpoint(
        method="PUT",
        path="/v1/devices/{device}/labels",
        access=Access.OPERATOR,
        summary="Replace the labels of a device.",
        handler=replace_labels,
        takes=dict[str, str],
        gives=DeviceRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/devices/{device}/revoke",
        access=Access.OPERATOR,
        summary="Revoke a device: its certificates open no door from now on.",
        handler=revoke_device,
        gives=DeviceRecord,
    ),
)
