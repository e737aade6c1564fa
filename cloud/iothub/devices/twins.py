"""Twins: desired and reported properties with versions and times, and tags. Pure functions on frozen values.

A patch merges: null deletes a property (RFC 7396). Limits are those of IoT Hub: 32 KiB per section, depth 10, names without
control characters, `$`, `.` and spaces. Source: "Understand and use device twins in IoT Hub" (learn.microsoft.com).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from cloud.iothub.devices.identities import NEVER, Identity, new_etag, timestamp
from cloud.iothub.refusal import bad_argument

MAX_BYTES = 32 << 10
MAX_DEPTH = 10
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f$. ]{1,1024}")
_METADATA = frozenset(("$version", "$metadata"))

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """Desired or reported properties; `times` has the same shape with the instant of each last change."""

    properties: Json = field(default_factory=dict)
    times: Json = field(default_factory=dict)
    version: int = 1
    updated_at: str = NEVER

    def to_json(self, *, with_metadata: bool) -> Json:
        """Return the properties with `$version`, and `$metadata` for the service API."""
        metadata = {"$metadata": {"$lastUpdated": self.updated_at, **self.times}} if with_metadata else {}
        return {**self.properties, **metadata, "$version": self.version}


@dataclass(frozen=True, slots=True)
class Twin:
    """The twin of one identity."""

    desired: Section = field(default_factory=Section)
    reported: Section = field(default_factory=Section)
    tags: Json = field(default_factory=dict)
    version: int = 1
    etag: str = field(default_factory=new_etag)
    configurations: Json = field(default_factory=dict)
    """The configurations that target the identity, with their status."""


def from_document(document: Mapping[str, Any]) -> Twin:
    """Return a stored twin."""
    sections = {name: Section(**document[name]) for name in ("desired", "reported")}
    return Twin(**{**document, **sections})


def to_document(twin: Twin) -> Json:
    """Return a twin for the store."""
    return asdict(twin)


def report(twin: Twin, patch: object, now: datetime) -> Twin:
    """Return the twin after a device's patch of its reported properties.

    Raises:
        RefusalError: the patch is not an object, or it exceeds a limit.
    """
    return replace(twin, reported=_changed(twin.reported, _checked(patch, "reported"), now), version=twin.version + 1)


def desire(twin: Twin, patch: object, now: datetime) -> Twin:
    """Return the twin after a patch of its desired properties.

    Raises:
        RefusalError: the patch is not an object, or it exceeds a limit.
    """
    changed = _changed(twin.desired, _checked(patch, "desired"), now)
    return replace(twin, desired=changed, version=twin.version + 1, etag=new_etag())


def change(twin: Twin, request: Mapping[str, Any], now: datetime, *, replaces: bool = False) -> Twin:
    """Return the twin after a service's patch of tags and desired properties, or after their replacement.

    Raises:
        RefusalError: a section is not an object, or it exceeds a limit.
    """
    tags = request.get("tags")
    desired = (request.get("properties") or {}).get("desired")
    if replaces:
        twin = replace(twin, tags={}, desired=replace(twin.desired, properties={}, times={}))
    if tags is not None or replaces:
        merged = merge(twin.tags, _checked(tags or {}, "tags"))
        _check_size(merged, "tags")
        twin = replace(twin, tags=merged, version=twin.version + 1, etag=new_etag())
    return twin if desired is None and not replaces else desire(twin, desired or {}, now)


def merge(target: Mapping[str, Any], patch: Mapping[str, Any]) -> Json:
    """Return `target` with a patch of RFC 7396: null deletes, objects merge, everything else replaces."""
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            below = merged.get(name)
            merged[name] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged


def to_rest(identity: Identity, twin: Twin, *, is_connected: bool, last_active_at: str, message_count: int) -> Json:
    """Return the twin as the service API has it."""
    module = {"moduleId": identity.module} if identity.module else {}
    return {
        "deviceId": identity.device,
        **module,
        "etag": twin.etag,
        "deviceEtag": identity.etag,
        "status": "enabled" if identity.is_enabled else "disabled",
        "statusUpdateTime": identity.status_changed_at,
        "connectionState": "Connected" if is_connected else "Disconnected",
        "lastActivityTime": last_active_at,
        "cloudToDeviceMessageCount": message_count,
        "authenticationType": identity.authentication.value,
        "x509Thumbprint": {
            "primaryThumbprint": identity.thumbprints[0] or None,
            "secondaryThumbprint": identity.thumbprints[1] or None,
        },
        "version": twin.version,
        "tags": twin.tags,
        "properties": {
            "desired": twin.desired.to_json(with_metadata=True),
            "reported": twin.reported.to_json(with_metadata=True),
        },
        "capabilities": {"iotEdge": identity.is_edge},
        "configurations": twin.configurations,
    }


def to_device(twin: Twin) -> Json:
    """Return the twin as its device gets it: without tags and times."""
    return {
        "desired": twin.desired.to_json(with_metadata=False),
        "reported": twin.reported.to_json(with_metadata=False),
    }


def _changed(section: Section, patch: Json, now: datetime) -> Section:
    at = timestamp(now)
    merged = merge(section.properties, patch)
    _check_size(merged, "properties")
    return Section(merged, _times(section.times, patch, at), section.version + 1, at)


def _times(times: Mapping[str, Any], patch: Mapping[str, Any], at: str) -> Json:
    changed = dict(times)
    for name, value in patch.items():
        if value is None:
            changed.pop(name, None)
        elif isinstance(value, Mapping):
            changed[name] = {**_times(changed.get(name) or {}, value, at), "$lastUpdated": at}
        else:
            changed[name] = {"$lastUpdated": at}
    return changed


def _checked(patch: object, section: str) -> Json:
    if not isinstance(patch, Mapping):
        raise bad_argument(f"{section} must be a JSON object, not {type(patch).__name__}")
    cleaned = {name: value for name, value in patch.items() if name not in _METADATA}
    _check_names(cleaned, section, depth=1)
    return cleaned


def _check_names(value: object, section: str, depth: int) -> None:
    if isinstance(value, list):
        for each in value:
            _check_names(each, section, depth)
    if not isinstance(value, Mapping):
        return
    if depth > MAX_DEPTH:
        raise bad_argument(f"{section} must be at most {MAX_DEPTH} objects deep: move deeper values up")
    for name, below in value.items():
        if not _NAME.fullmatch(name):
            raise bad_argument(
                f"a name in {section} must not be empty or contain '$', '.', spaces or control characters: {name[:80]!r}"
            )
        _check_names(below, section, depth + 1)


def _check_size(section: Json, name: str) -> None:
    size = len(json.dumps(section, separators=(",", ":"), ensure_ascii=False).encode())
    if size > MAX_BYTES:
        raise bad_argument(f"{name} must have at most {MAX_BYTES} bytes as JSON, not {size}")
