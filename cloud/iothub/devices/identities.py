"""Identities of devices and modules: names, credentials, status; and their JSON form in IoT Hub's service API.

An identity is addressed as `device` or `device/module`. Changes are pure: a function takes the current identity and the JSON of a
request and returns the new one. Source of the form: REST API of IoT Hub, version 2021-04-12, objects Device and Module.
"""

from __future__ import annotations

import base64
import enum
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cloud.iothub.refusal import bad_argument
from edgewright.contracts.iothub import sas
from edgewright.errors import BadInputError

_NAME = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}")
_THUMBPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
NEVER = "0001-01-01T00:00:00Z"
"""The instant that IoT Hub shows for an event that has not happened."""


class Authentication(enum.StrEnum):
    """The kind of credential of an identity."""

    SAS = "sas"
    SELF_SIGNED = "selfSigned"
    AUTHORITY = "certificateAuthority"


@dataclass(frozen=True, slots=True)
class Identity:
    """One device or module; keys and thumbprints are pairs, so that one can be replaced while the other is in use."""

    name: str
    authentication: Authentication = Authentication.SAS
    keys: tuple[str, str] = field(default=("", ""), repr=False)
    thumbprints: tuple[str, str] = ("", "")
    is_enabled: bool = True
    status_reason: str = ""
    status_changed_at: str = NEVER
    is_edge: bool = False
    managed_by: str = ""
    generation: str = ""
    etag: str = ""

    @property
    def device(self) -> str:
        """The device's id, also of a module."""
        return self.name.partition("/")[0]

    @property
    def module(self) -> str:
        """The module's id; empty for a device."""
        return self.name.partition("/")[2]


def check_name(name: str) -> str:
    """Return a device or module id; raise `RefusalError` unless IoT Hub accepts it."""
    if not _NAME.fullmatch(name):
        raise bad_argument(f"an id must be 1 to 128 letters, digits or -:.+%_#*?!(),=@;$', not {name[:150]!r}")
    return name


def new_etag() -> str:
    """Return a new etag."""
    return base64.b64encode(secrets.token_bytes(6)).decode("ascii")


def create(name: str, request: Mapping[str, Any], now: datetime) -> Identity:
    """Return a new identity from the JSON of a request; keys that the request lacks are generated.

    Raises:
        RefusalError: a name, key, thumbprint or kind of credential is invalid.
    """
    for part in name.split("/"):
        check_name(part)
    generation = str(secrets.randbits(60))
    created = Identity(name, generation=generation, keys=(sas.new_key(), sas.new_key()))
    return update(created, request, now)


def update(identity: Identity, request: Mapping[str, Any], now: datetime) -> Identity:
    """Return `identity` with the values of a request; omitted credentials stay.

    Raises:
        RefusalError: a key, thumbprint, status or kind of credential is invalid.
    """
    authentication = _object(request, "authentication")
    is_enabled = _status(request, identity)
    changed_at = identity.status_changed_at if is_enabled == identity.is_enabled else timestamp(now)
    changed = replace(
        identity,
        authentication=_kind(authentication, identity.authentication),
        keys=_keys(_object(authentication, "symmetricKey"), identity.keys),
        thumbprints=_thumbprints(_object(authentication, "x509Thumbprint"), identity.thumbprints),
        is_enabled=is_enabled,
        status_reason=str(request.get("statusReason") or ""),
        status_changed_at=changed_at,
        is_edge=bool(_object(request, "capabilities").get("iotEdge", identity.is_edge)),
        managed_by=str(request.get("managedBy") or ""),
        etag=new_etag(),
    )
    if changed.authentication is Authentication.SELF_SIGNED and not any(changed.thumbprints):
        raise bad_argument("an identity of the type selfSigned must have a thumbprint, but it has none: send x509Thumbprint")
    return changed


def to_document(identity: Identity) -> dict[str, Any]:
    """Return all fields of an identity for the store."""
    return {
        "name": identity.name,
        "authentication": identity.authentication.value,
        "keys": identity.keys,
        "thumbprints": identity.thumbprints,
        "is_enabled": identity.is_enabled,
        "status_reason": identity.status_reason,
        "status_changed_at": identity.status_changed_at,
        "is_edge": identity.is_edge,
        "managed_by": identity.managed_by,
        "generation": identity.generation,
        "etag": identity.etag,
    }


def from_document(document: Mapping[str, Any]) -> Identity:
    """Return the identity of a stored document."""
    pairs = {name: tuple(document[name]) for name in ("keys", "thumbprints")}
    return Identity(**{**document, **pairs, "authentication": Authentication(document["authentication"])})


def to_rest(identity: Identity, *, is_connected: bool, last_active_at: str, message_count: int) -> dict[str, Any]:
    """Return the JSON of the service API, keys included."""
    primary, secondary = identity.keys if identity.authentication is Authentication.SAS else (None, None)
    common = {
        "deviceId": identity.device,
        "generationId": identity.generation,
        "etag": identity.etag,
        "connectionState": "Connected" if is_connected else "Disconnected",
        "connectionStateUpdatedTime": last_active_at,
        "lastActivityTime": last_active_at,
        "cloudToDeviceMessageCount": message_count,
        "authentication": {
            "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary},
            "x509Thumbprint": dict(
                zip(("primaryThumbprint", "secondaryThumbprint"), (each or None for each in identity.thumbprints), strict=True)
            ),
            "type": identity.authentication.value,
        },
    }
    if identity.module:
        return {**common, "moduleId": identity.module, "managedBy": identity.managed_by}
    return {
        **common,
        "status": "enabled" if identity.is_enabled else "disabled",
        "statusReason": identity.status_reason or None,
        "statusUpdatedTime": identity.status_changed_at,
        "capabilities": {"iotEdge": identity.is_edge},
    }


def timestamp(moment: datetime) -> str:
    """Return a UTC instant in the service API's form."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    child = parent.get(name) or {}
    if not isinstance(child, Mapping):
        raise bad_argument(f"{name} must be an object, not {type(child).__name__}")
    return child


def _status(request: Mapping[str, Any], identity: Identity) -> bool:
    status = request.get("status")
    if status is None:
        return identity.is_enabled
    if status not in ("enabled", "disabled"):
        raise bad_argument(f"status must be enabled or disabled, not {status!r}")
    return bool(status == "enabled")


def _kind(authentication: Mapping[str, Any], current: Authentication) -> Authentication:
    kind = authentication.get("type")
    if kind is None:
        return Authentication.SELF_SIGNED if authentication.get("x509Thumbprint") else current
    try:
        return Authentication(kind)
    except ValueError as error:
        raise bad_argument(f"authentication.type must be sas, selfSigned or certificateAuthority, not {kind!r}") from error


def _keys(keys: Mapping[str, Any], current: tuple[str, str]) -> tuple[str, str]:
    try:
        primary, secondary = (
            sas.check_key(keys[name]) if keys.get(name) else old
            for name, old in zip(("primaryKey", "secondaryKey"), current, strict=True)
        )
    except BadInputError as error:
        raise bad_argument(str(error)) from error
    return primary, secondary


def _thumbprints(thumbprints: Mapping[str, Any], current: tuple[str, str]) -> tuple[str, str]:
    if not thumbprints:
        return current
    primary, secondary = (
        str(thumbprints.get(name) or "").replace(":", "").upper() for name in ("primaryThumbprint", "secondaryThumbprint")
    )
    for each in (primary, secondary):
        if each and not _THUMBPRINT.fullmatch(each):
            raise bad_argument(f"a thumbprint must be the SHA-1 or SHA-256 of the certificate in hexadecimal, not {each[:80]!r}")
    return primary, secondary
