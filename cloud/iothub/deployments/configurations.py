"""The configurations of a hub: each applies its content to all devices or modules that its condition names.

They are applied when a configuration, a twin or an identity changes. A device that no configuration targets any longer keeps its
settings, as in IoT Hub. Modules of IoT Edge devices are created and deleted as their manifest names them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cloud.iothub.deployments import content
from cloud.iothub.deployments.query import Condition, parse_condition, parse_query
from cloud.iothub.devices import identities, twins
from cloud.iothub.devices.registry import Registry
from cloud.iothub.hub import Hub
from cloud.iothub.refusal import RefusalError, bad_argument, precondition
from cloud.iothub.store import Store

_LOG = logging.getLogger(__name__)

MAX_CONFIGURATIONS = 100
_CONFIGURATION = "configuration"
_MODULES = "from devices.modules where"


@dataclass(frozen=True, slots=True)
class Configuration:
    """One configuration with its parsed condition."""

    id: str
    body: dict[str, Any]
    kind: str
    condition: Condition = field(repr=False, compare=False)

    @property
    def rank(self) -> tuple[int, str]:
        """The order of precedence: priority, then creation."""
        return self.body["priority"], self.body["createdTimeUtc"]

    @property
    def content(self) -> Any:
        """The settings."""
        return self.body["content"][self.kind]


class Configurations:
    """All configurations of one hub."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self._configurations = {key: _parsed(body) for key, body in store.documents(_CONFIGURATION).items()}
        self._is_applying = False
        hub.registry.on_changed = self.apply

    @property
    def _registry(self) -> Registry:
        return self._hub.registry

    def put(self, name: str, request: Mapping[str, Any], etag: str) -> dict[str, Any]:
        """Create a configuration, or change the condition, priority, labels and metrics of one; then apply it.

        Raises:
            RefusalError: it exists, the etag is not the current one, or its content, condition or priority is invalid.
        """
        current = self._configurations.get(name)
        if current is not None and not etag:
            raise RefusalError(409, "ConfigurationAlreadyExists", f"configuration {name} exists: send If-Match to change it")
        if current is not None and etag not in ("*", current.body["etag"]):
            raise precondition(name)
        if current is None and len(self._configurations) >= MAX_CONFIGURATIONS:
            raise RefusalError(
                403, "ConfigurationCountLimitReached", f"the hub must have at most {MAX_CONFIGURATIONS} configurations"
            )
        configuration = _parsed(_body(name, request, current))
        self._configurations[name] = configuration
        self._store.put(_CONFIGURATION, name, configuration.body)
        self.apply_all()
        return self.show(name)

    def show(self, name: str) -> dict[str, Any]:
        """Return a configuration with its metrics; raise `RefusalError` if there is no such one."""
        found = self._configurations.get(name)
        if found is None:
            raise RefusalError(404, "ConfigurationNotFound", f"the hub has no configuration {name[:140]}")
        statuses = [self._registry.twin(each).configurations.get(name, {}).get("status") for each in self._registry.names()]
        counts = {"targetedCount": len(statuses) - statuses.count(None), "appliedCount": statuses.count("Applied")}
        queries = found.body["metrics"]["queries"]
        results = {metric: len(self.query(text)) for metric, text in queries.items()}
        return {
            **found.body,
            "systemMetrics": {"results": counts, "queries": {}},
            "metrics": {"results": results, "queries": queries},
        }

    def all(self) -> list[dict[str, Any]]:
        """Return all configurations."""
        return [self.show(name) for name in sorted(self._configurations)]

    def delete(self, name: str, etag: str) -> None:
        """Delete a configuration; the others are applied again. Raise `RefusalError` if it is unknown or has changed."""
        current = self.show(name)
        if etag not in ("", "*", current["etag"]):
            raise precondition(name)
        del self._configurations[name]
        self._store.delete(_CONFIGURATION, name)
        self.apply_all()

    def query(self, text: str) -> list[Any]:
        """Return the result of a query; raise `RefusalError` if it cannot be parsed."""
        parsed = parse_query(text)
        wants_modules = parsed.collection == "devices.modules"
        names = [name for name in self._registry.names() if ("/" in name) == wants_modules]
        return parsed.run(self._shown(name) for name in names)

    def apply_all(self) -> None:
        """Apply the configurations to every device and module."""
        for name in self._registry.names():
            self.apply(name)

    def apply(self, name: str) -> None:
        """Apply the configurations to one device or module, unless this is the result of applying them."""
        if self._is_applying or not self._registry.find(name):
            return
        if not self._configurations and not self._registry.twin(name).configurations:
            return
        self._is_applying = True
        try:
            shown = self._shown(name)
            matching = sorted(
                (each for each in self._configurations.values() if _fits(each, name) and each.condition(shown) is True),
                key=lambda each: each.rank,
            )
            self._apply_settings(name, [each for each in matching if each.kind != "modulesContent"])
            applied = self._apply_manifests(name, [each for each in matching if each.kind == "modulesContent"])
            self._note(name, matching, applied)
        except RefusalError as error:  # the limits of this twin; the request that changed it is not at fault
            _LOG.warning("not_applied identity=%s reason=%s", name, error)
        finally:
            self._is_applying = False

    def apply_manifest(self, device: str, request: Mapping[str, Any]) -> None:
        """Apply a manifest to one IoT Edge device; raise `RefusalError` if it is incomplete or not for IoT Edge."""
        modules = content.check_manifest(request)
        if not self._registry.identity(device).is_edge:
            raise bad_argument(f"{device} must be an IoT Edge device: create it with capabilities.iotEdge")
        self._set_modules(device, content.manifest_of([modules]))

    def _apply_settings(self, name: str, matching: Iterable[Configuration]) -> None:
        patch = content.settings_of([each.content for each in matching])
        twin = self._registry.twin(name)
        if twins.merge(twin.desired.properties, patch) != twin.desired.properties:
            self._registry.set_twin(name, twins.desire(twin, patch, datetime.now(UTC)))

    def _apply_manifests(self, name: str, matching: list[Configuration]) -> set[str]:
        """Apply the effective manifest, and return the configurations that are part of it."""
        manifest = content.manifest_of([each.content for each in matching])
        if not manifest:
            return set()
        self._set_modules(name, manifest)
        base = max(index for index, each in enumerate(matching) if content.DESIRED in each.content.get(content.AGENT, {}))
        return {each.id for each in matching[base:]}

    def _set_modules(self, device: str, manifest: Mapping[str, Mapping[str, Any]]) -> None:
        named = {*manifest, *(manifest.get(content.AGENT, {}).get("modules") or {}), content.AGENT, content.HUB}
        for module in sorted(named):
            if self._registry.find(f"{device}/{module}") is None:
                self._registry.create(f"{device}/{module}", {"managedBy": "iotEdge"})
        for module, desired in manifest.items():
            name = f"{device}/{module}"
            twin = self._registry.twin(name)
            if twin.desired.properties != desired:
                changed = {"properties": {"desired": desired}, "tags": twin.tags}
                self._registry.set_twin(name, twins.change(twin, changed, datetime.now(UTC), replaces=True))
        for identity in self._registry.modules(device):
            if identity.managed_by == "iotEdge" and identity.module not in named:
                self._registry.delete(identity.name, "*")

    def _note(self, name: str, matching: list[Configuration], manifests: set[str]) -> None:
        statuses = {
            each.id: {"status": "Applied" if each.kind != "modulesContent" or each.id in manifests else "Targeted"}
            for each in matching
        }
        twin = self._registry.twin(name)
        if twin.configurations != statuses:
            self._registry.set_twin(name, replace(twin, configurations=statuses))

    def _shown(self, name: str) -> dict[str, Any]:
        return twins.to_rest(self._registry.identity(name), self._registry.twin(name), **self._hub.state_of(name))


def _fits(configuration: Configuration, name: str) -> bool:
    return ("/" in name) == (configuration.kind == "moduleContent")


def _body(name: str, request: Mapping[str, Any], current: Configuration | None) -> dict[str, Any]:
    now = identities.timestamp(datetime.now(UTC))
    priority = request.get("priority") or 0
    if not isinstance(priority, int) or not 0 <= priority < 2**31:
        raise bad_argument(f"priority must be a number from 0 to {2**31 - 1}, not {priority!r}")
    queries = (request.get("metrics") or {}).get("queries") or {}
    for text in queries.values():
        parse_query(str(text))
    return {
        "id": identities.check_name(name),
        "schemaVersion": str(request.get("schemaVersion") or "1.0"),
        "labels": dict(request.get("labels") or {}),
        "content": dict(request.get("content") or {}) if current is None else current.body["content"],
        "targetCondition": str(request.get("targetCondition") or ""),
        "priority": priority,
        "metrics": {"results": {}, "queries": queries},
        "createdTimeUtc": now if current is None else current.body["createdTimeUtc"],
        "lastUpdatedTimeUtc": now,
        "etag": identities.new_etag(),
    }


def _parsed(body: dict[str, Any]) -> Configuration:
    kind = content.check(body["content"])
    text = body["targetCondition"]
    if kind == "moduleContent" and text.lower().startswith(_MODULES):
        text = text[len(_MODULES) :]
    # An empty condition targets no device.
    condition: Condition = parse_condition(text) if text.strip() else (lambda _twin: False)
    return Configuration(body["id"], body, kind, condition)
