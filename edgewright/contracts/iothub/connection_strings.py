"""Connection strings of IoT Hub: `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`, or with `DeviceId=…` that of a device.

They contain a secret: no message of this module contains any part of one but the names of its fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgewright.contracts.iothub import sas
from edgewright.errors import BadInputError


@dataclass(frozen=True, slots=True)
class ServiceAccess:
    """A policy of a hub with its key, for the service API."""

    host: str
    """Name of the hub; with a port if it is not 443."""
    policy: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeviceAccess:
    """A device of a hub with its key."""

    host: str
    device: str
    key: str = field(repr=False)
    gateway: str = ""
    """Host that the device connects to instead of the hub."""


def parse_service(text: str) -> ServiceAccess:
    """Return the access of a service; raise `BadInputError` if the text is not a service's connection string."""
    fields = _fields(text, ("HostName", "SharedAccessKeyName", "SharedAccessKey"), "a policy of the hub")
    return ServiceAccess(fields["HostName"], fields["SharedAccessKeyName"], fields["SharedAccessKey"])


def parse_device(text: str) -> DeviceAccess:
    """Return the access of a device; raise `BadInputError` if the text is not a device's connection string."""
    fields = _fields(text, ("HostName", "DeviceId", "SharedAccessKey"), "an IoT Edge device")
    if "ModuleId" in fields:
        raise BadInputError("the connection string must be that of a device, but it has ModuleId: use that of its device")
    return DeviceAccess(
        fields["HostName"], fields["DeviceId"], fields["SharedAccessKey"], gateway=fields.get("GatewayHostName", "")
    )


@dataclass(frozen=True, slots=True)
class ClientAccess:
    """A device or a module of a hub; it has a key, or a certificate that is stored elsewhere."""

    host: str
    device: str
    module: str = ""
    key: str = field(default="", repr=False)
    """Base64; empty if the client has a certificate."""
    gateway: str = ""
    """Host that the client connects to instead of the hub."""


def parse_client(text: str) -> ClientAccess:
    """Return the access of a device or module with a key or with `x509=true`.

    Raises:
        BadInputError: the text is not the connection string of a device or module.
    """
    given = {name.strip(): value for name, _, value in (part.partition("=") for part in text.split(";"))}
    has_certificate = given.get("x509", "").casefold() == "true"
    required = ("HostName", "DeviceId") if has_certificate else ("HostName", "DeviceId", "SharedAccessKey")
    fields = _fields(text, required, "a device or module")
    return ClientAccess(
        fields["HostName"],
        fields["DeviceId"],
        fields.get("ModuleId", ""),
        "" if has_certificate else fields["SharedAccessKey"],
        fields.get("GatewayHostName", ""),
    )


def _fields(text: str, required: tuple[str, ...], owner: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.strip().split(";") if part)
    fields = {name: value for name, _, value in pairs}
    missing = [name for name in required if not fields.get(name)]
    if missing:
        raise BadInputError(f"the connection string of {owner} must have {', '.join(required)}; without: {', '.join(missing)}")
    if "SharedAccessKey" not in required:
        return fields
    try:
        sas.check_key(fields["SharedAccessKey"])
    except BadInputError:
        shortest, longest = sas.KEY_BYTES
        raise BadInputError(
            f"SharedAccessKey of the connection string must be base64 of {shortest} to {longest} bytes, but it is not"
        ) from None
    return fields
