"""Run an endpoint in a cluster: apply, wait, read back, delete.

1. The manifests are those of `render`, as objects.
2. Objects of the same names must be ours: those of another tool or endpoint are never changed.
3. The server checks all of them without writing (`dryRun`), so a refusal of the last one leaves nothing half-applied.
4. Server-side apply writes them; a field of another manager is a conflict, which is named.
5. The rollout is followed by watching the Deployments. It ends when all replicas are ready, or with a cause that lasts.
6. Objects of an earlier version of the endpoint are deleted when the present one is ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from edgewright.contracts.endpoints import EndpointState
from edgewright.errors import BadInputError, ConflictError, NotFoundError, OperationError
from edgewright.kubernetes.cluster import FIELD_MANAGER, Cluster, FieldConflict, FieldConflictError
from edgewright.kubernetes.endpoint import ClusterEndpoint
from edgewright.kubernetes.network import LOAD_BALANCER
from edgewright.kubernetes.render import Format, render
from edgewright.kubernetes.state import ClusterStatus, needs_events, overall, status_of_deployment
from edgewright.kubernetes.workload import ENDPOINT_LABEL, MANAGED_BY_LABEL

KINDS = (
    ("apps/v1", "Deployment"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "Service"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("networking.k8s.io/v1", "Ingress"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("v1", "Secret"),
)
"""Kinds of the objects that an endpoint can have."""
_WATCH_S = 1
"""Longest time between two looks at the cluster: causes in pods and events do not change the Deployment, which is watched."""

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Applied:
    """An object that was applied."""

    kind: str
    name: str
    took_over: tuple[FieldConflict, ...] = ()
    """Fields that belonged to other managers before."""


def apply_endpoint(cluster: Cluster, endpoint: ClusterEndpoint, keys: str = "", *, force: bool = False) -> list[Applied]:
    """Apply the objects of an endpoint; return when the server has them.

    Args:
        cluster: the cluster; its namespace is used.
        endpoint: the endpoint.
        keys: JSON with the two keys, which becomes a Secret; empty: the Secret exists.
        force: take over fields that other managers set to other values.

    Raises:
        ConflictError: an object of the same name has another owner.
        FieldConflictError: other managers set fields to other values, and `force` is False.
        BadInputError: the server refuses an object.
    """
    documents = documents_of(endpoint, keys)
    live = [cluster.get(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in documents]
    for document, present in zip(documents, live, strict=True):
        if present is not None:
            check_owner(present, endpoint.name)
            _keep_scale(document, present)
    conflicts = [_conflicts(cluster, each) for each in documents]
    found = tuple(conflict for each in conflicts for conflict in each)
    if found and not force:
        raise FieldConflictError(found)
    for document in documents:
        cluster.apply(document, force=force)
    return [Applied(d["kind"], d["metadata"]["name"], taken) for d, taken in zip(documents, conflicts, strict=True)]


def documents_of(endpoint: ClusterEndpoint, keys: str = "") -> list[Object]:
    """Return the objects of an endpoint in the order in which they are applied."""
    files = render(endpoint, Format.KUBERNETES, keys)
    del files["kustomization.yaml"]
    return [document for text in files.values() for document in yaml.safe_load_all(text)]


def check_owner(present: Object, endpoint: str) -> None:
    """Raise `ConflictError` if an object of the cluster is not one of this endpoint."""
    metadata = present["metadata"]
    labels = metadata.get("labels") or {}
    owners = [f"{each['kind']} {each['name']}" for each in metadata.get("ownerReferences") or []]
    is_ours = labels.get(MANAGED_BY_LABEL) == FIELD_MANAGER and labels.get(ENDPOINT_LABEL) == endpoint
    if is_ours and not owners:
        return
    managers = sorted({each["manager"] for each in metadata.get("managedFields") or [] if not each.get("subresource")})
    owner = owners[0] if owners else labels.get(MANAGED_BY_LABEL) or ", ".join(managers) or "an unknown tool"
    if labels.get(ENDPOINT_LABEL, endpoint) != endpoint:
        owner = f"the endpoint {labels[ENDPOINT_LABEL]}"
    raise ConflictError(
        f"{present['kind']} {metadata['name']} in the namespace {metadata.get('namespace')} must be one of the endpoint "
        f"{endpoint} or not exist, but it belongs to {owner}: choose another name, or delete it there"
    )


def wait_until_ready(
    cluster: Cluster, name: str, *, timeout_s: float, on_change: Callable[[ClusterStatus], None] = lambda _: None
) -> ClusterStatus:
    """Return when all replicas of an endpoint are ready; `on_change` gets each state on the way.

    Raises:
        OperationError: a cause that lasts, or no time is left; the message has the words of the cluster.
    """
    deadline = time.monotonic() + timeout_s
    shown: ClusterStatus | None = None
    while True:
        version = cluster.version_of_list("apps/v1", "Deployment", {ENDPOINT_LABEL: name})
        status = read_status(cluster, name)
        if status != shown:
            on_change(status)
            shown = status
        if status.state is EndpointState.HEALTHY:
            return status
        lasting = [each for each in status.deployments if each.is_lasting]
        remaining_s = deadline - time.monotonic()
        if lasting or remaining_s <= 0:
            why = (lasting[0].reason if lasting else status.reason) or "no reason is known"
            what = "did not start" if lasting else f"was not ready within {timeout_s:g} s"
            raise OperationError(
                f"endpoint {name} {what}: {why}; its objects stay, and 'edgewright endpoints cluster logs {name}' has its output"
            )
        cluster.wait_for_change("apps/v1", "Deployment", {ENDPOINT_LABEL: name}, since=version, timeout_s=_WATCH_S)


def read_status(cluster: Cluster, name: str) -> ClusterStatus:
    """Return the state of an endpoint.

    Raises:
        NotFoundError: there is no such endpoint in the namespace.
    """
    labels = {ENDPOINT_LABEL: name}
    deployments = cluster.find("apps/v1", "Deployment", labels=labels)
    if not deployments:
        raise NotFoundError(
            f"the namespace {cluster.namespace} of the context {cluster.context} must have the endpoint {name}, but it has none: "
            "apply it, or choose another --context or --namespace"
        )
    pods = cluster.find("v1", "Pod", labels=labels)
    statuses = []
    for deployment in deployments:
        chosen = deployment["spec"]["selector"]["matchLabels"].items()
        mine = [each for each in pods if chosen <= (each["metadata"].get("labels") or {}).items()]
        statuses.append(status_of_deployment(deployment, mine, _warnings(cluster, mine)))
    state, reason = overall(statuses)
    return ClusterStatus(name, cluster.context, cluster.namespace, state, reason, tuple(statuses), _addresses(cluster, labels))


def read_logs(cluster: Cluster, name: str, *, lines: int, previous: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the pods of an endpoint with their output; with `previous`, that of the containers before a restart."""
    read_status(cluster, name)
    for pod in cluster.find("v1", "Pod", labels={ENDPOINT_LABEL: name}):
        pod_name = pod["metadata"]["name"]
        yield pod_name, cluster.log(pod_name, lines=lines, previous=previous)


def read_events(cluster: Cluster, name: str) -> list[Object]:
    """Return the events of an endpoint's pods and deployments, the oldest first."""
    read_status(cluster, name)
    found = [
        event
        for kind in (("apps/v1", "Deployment"), ("v1", "Pod"))
        for each in cluster.find(*kind, labels={ENDPOINT_LABEL: name})
        for event in _events(cluster, each["metadata"]["name"])
    ]
    return sorted(found, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))


def delete_endpoint(cluster: Cluster, name: str) -> list[Applied]:
    """Delete the objects of an endpoint that carry its labels and no other owner; return them.

    Raises:
        NotFoundError: there is no such object.
    """
    found = _objects(cluster, name)
    if not found:
        raise NotFoundError(
            f"the namespace {cluster.namespace} of the context {cluster.context} must have the endpoint {name}, but it has none"
        )
    return _delete(cluster, found)


def delete_leftovers(cluster: Cluster, endpoint: ClusterEndpoint) -> list[Applied]:
    """Delete objects of an earlier version that the endpoint no longer has; Secrets stay."""
    present = {(each["kind"], each["metadata"]["name"]) for each in documents_of(endpoint)}
    found = [each for each in _objects(cluster, endpoint.name) if each["kind"] != "Secret"]
    return _delete(cluster, [each for each in found if (each["kind"], each["metadata"]["name"]) not in present])


def _objects(cluster: Cluster, name: str) -> list[Object]:
    labels = {MANAGED_BY_LABEL: FIELD_MANAGER, ENDPOINT_LABEL: name}
    found = [each for kind in KINDS for each in cluster.find(*kind, labels=labels)]
    return [each for each in found if not each["metadata"].get("ownerReferences")]


def _delete(cluster: Cluster, objects: Sequence[Object]) -> list[Applied]:
    for each in objects:
        cluster.delete(each)
    return [Applied(each["kind"], each["metadata"]["name"]) for each in objects]


def _conflicts(cluster: Cluster, document: Object) -> tuple[FieldConflict, ...]:
    """Return the conflicts of an object; the server checks it and writes nothing."""
    try:
        cluster.apply(document, dry_run=True)
    except FieldConflictError as error:
        return error.conflicts
    except NotFoundError as error:
        raise BadInputError(f"the namespace {cluster.namespace} must exist: create it, or choose another ({error})") from error
    return ()


def _keep_scale(document: Object, present: Object) -> None:
    """Keep the number of replicas when an autoscaler takes it over from us.

    A field that we omit after we set it is removed by the server, which would reset the number to 1 under load.
    """
    if document["kind"] != "Deployment" or "replicas" in document["spec"]:
        return
    owners = [each for each in present["metadata"].get("managedFields") or [] if "f:replicas" in _spec_fields(each)]
    if [each["manager"] for each in owners] == [FIELD_MANAGER]:
        document["spec"]["replicas"] = present["spec"].get("replicas", 1)


def _spec_fields(entry: Object) -> Object:
    fields: Object = (entry.get("fieldsV1") or {}).get("f:spec") or {}
    return fields


def _warnings(cluster: Cluster, pods: Sequence[Object]) -> list[Object]:
    """Return the warnings of the pods whose own state does not name the cause."""
    found = [event for pod in pods if needs_events(pod) for event in _events(cluster, pod["metadata"]["name"])]
    return [each for each in found if each.get("type") == "Warning"]


def _events(cluster: Cluster, name: str) -> list[Object]:
    return cluster.find("v1", "Event", fields=f"involvedObject.name={name}")


def _addresses(cluster: Cluster, labels: dict[str, str]) -> tuple[str, ...]:
    """Return the addresses outside of the cluster: host names, then load balancers."""
    found = [
        f"https://{rule['host']}"
        for each in cluster.find("networking.k8s.io/v1", "Ingress", labels=labels)
        for rule in each["spec"]["rules"]
    ]
    found += [
        f"https://{host}"
        for each in cluster.find("gateway.networking.k8s.io/v1", "HTTPRoute", labels=labels)
        for host in each["spec"].get("hostnames", [])
    ]
    for service in cluster.find("v1", "Service", labels=labels):
        if service["spec"].get("type") == LOAD_BALANCER:
            port = service["spec"]["ports"][0]["port"]
            for entry in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []:
                host = entry.get("hostname") or entry["ip"]
                found.append(f"http://{host}" + ("" if port == 80 else f":{port}"))
    return tuple(found)
