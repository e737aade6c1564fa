"""The topics of IoT Hub's MQTT interface, and the properties that they carry.

Source: "Communicate with an IoT hub using the MQTT protocol" (learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub).
A `+` in a property is a plus sign, not a space.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

TWIN_GET = "$iothub/twin/GET/"
TWIN_REPORTED = "$iothub/twin/PATCH/properties/reported/"
METHOD_RESPONSE = "$iothub/methods/res/"
METHODS = "$iothub/methods/POST/#"
TWIN_RESPONSES = "$iothub/twin/res/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
DPS_RESPONSES = "$dps/registrations/res/#"
DPS_REGISTER = "$dps/registrations/PUT/iotdps-register/"
DPS_STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/"


def split_query(topic: str) -> tuple[str, dict[str, str]]:
    """Return the path and the properties of a topic such as `$iothub/twin/GET/?$rid=1`."""
    path, _, query = topic.partition("?")
    return path, parse_properties(query)


def parse_properties(text: str) -> dict[str, str]:
    """Return the properties in `k=v&k2=v2`; a later one of the same name takes precedence."""
    pairs = (each.partition("=") for each in text.strip("/").split("&") if each)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def format_properties(properties: Mapping[str, str]) -> str:
    """Return properties as a part of a topic."""
    return "&".join(f"{quote(name, safe='$.')}={quote(value, safe='')}" for name, value in properties.items())


def base(identity: str) -> str:
    """Return `devices/D` or `devices/D/modules/M` for the identity `D` or `D/M`."""
    device, _, module = identity.partition("/")
    return f"devices/{device}/modules/{module}" if module else f"devices/{device}"


def events(identity: str) -> str:
    """Return the start of the topics on which an identity sends telemetry."""
    return f"{base(identity)}/messages/events/"


def devicebound(identity: str) -> str:
    """Return the start of the topics on which a device receives messages."""
    return f"{base(identity)}/messages/devicebound/"


def allowed_filters(identity: str) -> frozenset[str]:
    """Return the filters to which an identity may subscribe."""
    own = f"{base(identity)}/inputs/#" if "/" in identity else f"{devicebound(identity)}#"
    return frozenset((own, METHODS, TWIN_RESPONSES, DESIRED))


def method_request(name: str, request: str) -> str:
    """Return the topic of a method's call."""
    return f"$iothub/methods/POST/{quote(name, safe='')}/?$rid={request}"


def twin_response(status: int, request: str, version: int | None = None) -> str:
    """Return the topic of the answer to a request on the own twin."""
    suffix = "" if version is None else f"&$version={version}"
    return f"$iothub/twin/res/{status}/?$rid={request}{suffix}"


def desired_patch(version: int) -> str:
    """Return the topic of a change of desired properties."""
    return f"$iothub/twin/PATCH/properties/desired/?$version={version}"


def provisioning_response(status: int, request: str, retry_after_s: int | None = None) -> str:
    """Return the topic of an answer of the provisioning service."""
    suffix = "" if retry_after_s is None else f"&retry-after={retry_after_s}"
    return f"$dps/registrations/res/{status}/?$rid={request}{suffix}"
