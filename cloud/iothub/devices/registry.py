"""All identities with their twins, in memory; each change goes to the store.

Changes of a device that carry an etag are refused unless it is the current one or `*`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from cloud.iothub.devices import identities, twins
from cloud.iothub.devices.identities import Identity
from cloud.iothub.devices.twins import Twin
from cloud.iothub.refusal import RefusalError, not_found, precondition
from cloud.iothub.store import Store

MAX_MODULES = 50
"""Modules per device, as in IoT Hub."""
_IDENTITY, _TWIN = "identity", "twin"

Watcher = Callable[[str, Twin], None]


class Registry:
    """The identities and twins of one hub."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._identities = {key: identities.from_document(each) for key, each in store.documents(_IDENTITY).items()}
        self._twins = {key: twins.from_document(each) for key, each in store.documents(_TWIN).items()}
        self._modules: dict[str, set[str]] = {}
        for name in self._identities:
            self._index(name)
        self.on_desired: Callable[[str, dict[str, Any], int], None] = lambda _name, _patch, _version: None
        """Called with the name, the patch and the version after a change of desired properties."""
        self.on_removed: Callable[[str, str], None] = lambda _name, _reason: None
        """Called with the name and the reason when an identity may no longer connect with its credential."""
        self.on_changed: Callable[[str], None] = lambda _name: None
        """Called with the name of a device or module that is new, or whose twin has changed."""

    def find(self, name: str) -> Identity | None:
        """Return an identity, or None."""
        return self._identities.get(name)

    def identity(self, name: str) -> Identity:
        """Return an identity; raise `RefusalError` if there is no such one."""
        found = self._identities.get(name)
        if found is None:
            raise not_found(name)
        return found

    def twin(self, name: str) -> Twin:
        """Return the twin of an identity; raise `RefusalError` if there is no such one."""
        found = self._twins.get(name)
        if found is None:
            raise not_found(name)
        return found

    def devices(self) -> list[Identity]:
        """Return the devices by name."""
        return [self._identities[name] for name in sorted(self._identities) if "/" not in name]

    def modules(self, device: str) -> list[Identity]:
        """Return the modules of a device by name; raise `RefusalError` if there is no such device."""
        self.identity(device)
        return [self._identities[name] for name in sorted(self._modules.get(device, ()))]

    def names(self) -> list[str]:
        """Return the names of all devices and modules."""
        return sorted(self._identities)

    def create(self, name: str, request: Mapping[str, Any]) -> Identity:
        """Create an identity with an empty twin.

        Raises:
            RefusalError: it exists, its device does not exist or has too many modules, or the request is invalid.
        """
        device, _, module = name.partition("/")
        kind = "Module" if module else "Device"
        if name in self._identities:
            raise RefusalError(409, f"{kind}AlreadyExists", f"{kind.lower()} {name} exists: send If-Match to change it")
        if module:
            self.identity(device)
            if len(self._modules.get(device, ())) >= MAX_MODULES:
                raise RefusalError(403, "MaximumModulesOnDevice", f"{device} must have at most {MAX_MODULES} modules")
        created = identities.create(name, request, datetime.now(UTC))
        self._keep(created)
        self._index(name)
        self._keep_twin(name, Twin())
        if not module and created.is_edge:
            for system_module in ("$edgeAgent", "$edgeHub"):
                self.create(f"{name}/{system_module}", {"managedBy": "iotEdge"})
        self.on_changed(name)
        return created

    def update(self, name: str, request: Mapping[str, Any], etag: str) -> Identity:
        """Change credentials and status of an identity; its connection ends if its credential is no longer valid.

        Raises:
            RefusalError: it does not exist, the etag is not the current one, or the request is invalid.
        """
        current = self.identity(name)
        _check_etag(name, current.etag, etag)
        changed = identities.update(current, request, datetime.now(UTC))
        self._keep(changed)
        if not changed.is_enabled:
            for each in (name, *self._modules.get(name, ())):
                self.on_removed(each, "the device was disabled")
        elif (changed.authentication, changed.keys, changed.thumbprints) != (
            current.authentication,
            current.keys,
            current.thumbprints,
        ):
            self.on_removed(name, "the credential was changed")
        return changed

    def delete(self, name: str, etag: str) -> None:
        """Delete an identity with its twin, and a device with its modules.

        Raises:
            RefusalError: it does not exist, or the etag is not the current one.
        """
        _check_etag(name, self.identity(name).etag, etag)
        for each in (*self._modules.pop(name, ()), name):
            del self._identities[each]
            del self._twins[each]
            self._store.delete(_IDENTITY, each)
            self._store.delete(_TWIN, each)
            self.on_removed(each, "the identity was deleted")
        device, _, _ = name.partition("/")
        self._modules.get(device, set()).discard(name)

    def report(self, name: str, patch: object) -> Twin:
        """Apply a device's patch of its reported properties; raise `RefusalError` if it is invalid."""
        changed = twins.report(self.twin(name), patch, datetime.now(UTC))
        self._keep_twin(name, changed)
        self.on_changed(name)
        return changed

    def change_twin(self, name: str, request: Mapping[str, Any], etag: str, *, replaces: bool = False) -> Twin:
        """Patch or replace tags and desired properties, and notify the device.

        Raises:
            RefusalError: unknown identity, an etag that is not the current one, or an invalid request.
        """
        current = self.twin(name)
        _check_etag(name, current.etag, etag)
        changed = twins.change(current, request, datetime.now(UTC), replaces=replaces)
        self.set_twin(name, changed)
        self.on_changed(name)
        return changed

    def set_twin(self, name: str, changed: Twin) -> None:
        """Store a twin, and notify its device of the difference in desired properties."""
        current = self.twin(name)
        self._keep_twin(name, changed)
        if changed.desired.version != current.desired.version:
            patch = _difference(current.desired.properties, changed.desired.properties)
            self.on_desired(name, {**patch, "$version": changed.desired.version}, changed.desired.version)

    def _keep(self, identity: Identity) -> None:
        self._identities[identity.name] = identity
        self._store.put(_IDENTITY, identity.name, identities.to_document(identity))

    def _keep_twin(self, name: str, twin: Twin) -> None:
        self._twins[name] = twin
        self._store.put(_TWIN, name, twins.to_document(twin))

    def _index(self, name: str) -> None:
        device, _, module = name.partition("/")
        if module:
            self._modules.setdefault(device, set()).add(name)


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the patch of RFC 7396 that makes `after` from `before`."""
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        if name not in before:
            patch[name] = value
        elif isinstance(value, Mapping) and isinstance(before[name], Mapping):
            if below := _difference(before[name], value):
                patch[name] = below
        elif value != before[name] or type(value) is not type(before[name]):
            patch[name] = value
    return patch


def _check_etag(name: str, current: str, sent: str) -> None:
    if sent not in ("*", "") and sent.strip('"') != current:
        raise precondition(name)
