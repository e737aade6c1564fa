"""Objects of a cluster with versions, labels, managers of fields and changes that can be watched.

The rules of writing are those of the API server: a create that exists, an apply that conflicts and an object that the published
schema refuses are answered with the Status that Kubernetes documents.
"""

from __future__ import annotations

import copy
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.support.kubernetes import fields
from tests.support.kubernetes.schemas import fault_of, schema_of

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of objects that the cluster has."""

    group_version: str
    kind: str
    plural: str


KINDS = (
    Kind("v1", "Namespace", "namespaces"),
    Kind("v1", "Secret", "secrets"),
    Kind("v1", "ConfigMap", "configmaps"),
    Kind("v1", "Service", "services"),
    Kind("v1", "Pod", "pods"),
    Kind("v1", "Event", "events"),
    Kind("apps/v1", "Deployment", "deployments"),
    Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("networking.k8s.io/v1", "Ingress", "ingresses"),
)
GATEWAY = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")


class RefusedError(Exception):
    """A request that the API server refuses, with its Status."""

    def __init__(self, code: int, reason: str, message: str, causes: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
            **({"details": {"causes": causes}} if causes else {}),
        }


@dataclass
class Change:
    """A change of an object that watchers receive."""

    version: int
    kind: Kind
    type: str
    object: Object


@dataclass
class Store:
    """The objects."""

    kinds: tuple[Kind, ...] = KINDS
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    """By kind, namespace and name."""
    changes: list[Change] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    version: int = 100
    managers: dict[str, dict[tuple[str, str], set[fields.Path]]] = field(default_factory=dict)
    """Paths by uid, then by manager and operation."""
    gone: bool = False
    """True when no more changes come."""

    def find(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return an object, or raise as the API server answers 404."""
        try:
            return self.objects[kind.kind, namespace, name]
        except KeyError:
            raise RefusedError(404, "NotFound", f'{_resource(kind)} "{name}" not found') from None

    def list(self, kind: Kind, namespace: str, selects: Callable[[Object], bool] = lambda _: True) -> list[Object]:
        """Return the objects of a kind in a namespace."""
        with self.changed:
            return [
                each for (k, n, _), each in sorted(self.objects.items()) if (k, n) == (kind.kind, namespace) and selects(each)
            ]

    def apply(self, kind: Kind, namespace: str, body: Object, *, manager: str, force: bool, dry_run: bool) -> Object:
        """Apply a configuration of a manager, as server-side apply does."""
        name, schema = body["metadata"]["name"], _schema(kind)
        if body["metadata"].get("managedFields"):
            raise RefusedError(400, "BadRequest", "metadata.managedFields must be nil")
        _check(body)
        with self.changed:
            self._check_namespace(namespace)
            live = self.objects.get((kind.kind, namespace, name))
            owners = copy.deepcopy(self.managers.get(live["metadata"]["uid"], {})) if live else {}
            applied = fields.paths_of(body, schema)
            conflicts = _conflicts(live, body, applied, owners, manager, schema) if live else []
            if conflicts and not force:
                raise _conflict(kind, conflicts)
            for other, path in conflicts:
                owners[other].discard(path)
            merged = fields.merge({k: v for k, v in live.items() if k != "status"}, body, schema) if live else copy.deepcopy(body)
            before = owners.get((manager, "Apply"), set())
            kept = set().union(*(paths for owner, paths in owners.items() if owner != (manager, "Apply"))) if owners else set()
            for path in sorted(before - applied, key=len, reverse=True):
                if path not in kept and not any(each[: len(path)] == path for each in applied | kept):
                    fields.remove(merged, path, schema)
            owners[manager, "Apply"] = applied
            return self._write(kind, namespace, merged, live, {k: v for k, v in owners.items() if v}, dry_run=dry_run)

    def create(self, kind: Kind, namespace: str, body: Object, *, manager: str) -> Object:
        """Create an object."""
        _check(body)
        with self.changed:
            self._check_namespace(namespace)
            if (kind.kind, namespace, body["metadata"]["name"]) in self.objects:
                raise RefusedError(409, "AlreadyExists", f'{_resource(kind)} "{body["metadata"]["name"]}" already exists')
            owners = {(manager, "Update"): fields.paths_of(body, _schema(kind))}
            return self._write(kind, namespace, copy.deepcopy(body), None, owners, dry_run=False)

    def update(self, kind: Kind, namespace: str, name: str, change: Callable[[Object], None], *, manager: str) -> Object:
        """Change an object as another client does; what it changes is then owned by that client."""
        with self.changed:
            live = self.find(kind, namespace, name)
            after, schema = copy.deepcopy(live), _schema(kind)
            change(after)
            owners = copy.deepcopy(self.managers.get(live["metadata"]["uid"], {}))
            spec = {k: v for k, v in after.items() if k != "status"}
            moved = {
                path
                for path in fields.paths_of(spec, schema)
                if fields.value_at(live, path, schema) != fields.value_at(after, path, schema)
            }
            for paths in owners.values():
                paths -= moved
            if moved:
                owners.setdefault((manager, "Update"), set()).update(moved)
            return self._write(kind, namespace, after, live, {k: v for k, v in owners.items() if v}, dry_run=False)

    def delete(self, kind: Kind, namespace: str, name: str) -> Object:
        """Delete an object."""
        with self.changed:
            removed = self.find(kind, namespace, name)
            del self.objects[kind.kind, namespace, name]
            self._announce(kind, "DELETED", removed)
            return removed

    def watch(self, kind: Kind, namespace: str, since: int, until: Callable[[], float]) -> Iterator[Change | None]:
        """Yield the changes after a version; None about every 0.2 s without one, until no time is left."""
        position = 0
        while until() > 0 and not self.gone:
            with self.changed:
                if position >= len(self.changes):
                    self.changed.wait(min(0.2, max(0.0, until())))
                new, position = self.changes[position:], len(self.changes)
            for change in new:
                if change.version > since and change.kind == kind and change.object["metadata"].get("namespace") == namespace:
                    yield change
            yield None

    def _check_namespace(self, namespace: str) -> None:
        if ("Namespace", "", namespace) not in self.objects:
            raise RefusedError(404, "NotFound", f'namespaces "{namespace}" not found')

    def _write(
        self, kind: Kind, namespace: str, body: Object, live: Object | None, owners: dict[Any, set[fields.Path]], *, dry_run: bool
    ) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        before: Object = live["metadata"] if live else {"uid": str(uuid.uuid4()), "creationTimestamp": now, "generation": 0}
        metadata = {**body["metadata"], "uid": before["uid"], "creationTimestamp": before["creationTimestamp"]}
        if namespace:
            metadata["namespace"] = namespace
        is_same_spec = live is not None and live.get("spec") == body.get("spec")
        metadata["generation"] = before.get("generation", 0) + (0 if is_same_spec else 1)
        if live and "status" in live and "status" not in body:
            body = {**body, "status": live["status"]}
        if "stringData" in body:
            body = _with_encoded_text(body)
        if live and {**body, "metadata": {}} == {**live, "metadata": {}} and _plain(metadata) == _plain(live["metadata"]):
            metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
            is_new = owners != self.managers.get(metadata["uid"])
        else:
            is_new = True
        if is_new:
            metadata["resourceVersion"] = str(self.version + 1)
        metadata["managedFields"] = [
            {
                "manager": manager,
                "operation": operation,
                "apiVersion": kind.group_version,
                "time": now,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields.encoded(paths),
            }
            for (manager, operation), paths in sorted(owners.items())
        ]
        written = {"apiVersion": kind.group_version, "kind": kind.kind, **body, "metadata": metadata}
        _check(written)
        if dry_run or not is_new:
            return written
        self.version += 1
        self.managers[metadata["uid"]] = owners
        self.objects[kind.kind, namespace, metadata["name"]] = written
        self._announce(kind, "MODIFIED" if live else "ADDED", written)
        return written

    def _announce(self, kind: Kind, type_: str, changed: Object) -> None:
        if type_ == "DELETED":
            self.version += 1
            changed = {**changed, "metadata": {**changed["metadata"], "resourceVersion": str(self.version)}}
        self.changes.append(Change(self.version, kind, type_, changed))
        self.changed.notify_all()


def _plain(metadata: Object) -> Object:
    return {k: v for k, v in metadata.items() if k not in ("managedFields", "resourceVersion")}


def _with_encoded_text(body: Object) -> Object:
    import base64

    texts = {name: base64.b64encode(text.encode()).decode() for name, text in body["stringData"].items()}
    return {**{k: v for k, v in body.items() if k != "stringData"}, "data": {**body.get("data", {}), **texts}}


def _schema(kind: Kind) -> dict[str, Any]:
    return schema_of(kind.group_version, kind.kind) or {}


def _check(body: Object) -> None:
    fault = fault_of(body)
    if fault is not None:
        raise RefusedError(422, "Invalid", f"{body['kind']} {body['metadata'].get('name')} is invalid: {fault}")


def _resource(kind: Kind) -> str:
    group, _, _ = kind.group_version.rpartition("/")
    return f"{kind.plural}.{group}" if group else kind.plural


def _conflicts(
    live: Object, body: Object, applied: set[fields.Path], owners: dict[Any, set[fields.Path]], manager: str, schema: Any
) -> list[tuple[Any, fields.Path]]:
    return [
        (owner, path)
        for owner, paths in sorted(owners.items())
        for path in sorted(applied & paths)
        if owner != (manager, "Apply")
        and not fields.is_item(path)
        and fields.value_at(live, path, schema) != fields.value_at(body, path, schema)
    ]


def _conflict(kind: Kind, conflicts: list[tuple[Any, fields.Path]]) -> RefusedError:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{owner}"' + ("" if operation == "Apply" else f" using {kind.group_version}"),
            "field": fields.shown(path),
        }
        for (owner, operation), path in conflicts
    ]
    number = f"{len(causes)} conflict" + ("s" if len(causes) > 1 else "")
    first = "; ".join(f"{each['message']}: {each['field']}" for each in causes)
    return RefusedError(409, "Conflict", f"Apply failed with {number}: {first}", causes)
