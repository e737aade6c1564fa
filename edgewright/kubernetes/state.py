"""State of an endpoint in a cluster, with the reason in the words of the cluster.

The rules are pure: they take the Deployments, the pods and the events that were read. A Deployment is complete by the rule of
`kubectl rollout status`: all replicas are of the present version, and available. Sources: Kubernetes documentation, "Deployments"
(conditions) and "Pod Lifecycle" (states of containers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgewright.contracts.endpoints import EndpointState
from edgewright.kubernetes.workload import DEPLOYMENT_LABEL

_LASTING = frozenset(
    [
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "ErrImageNeverPull",
        "ImagePullBackOff",
        "InvalidImageName",
    ]
)
"""Reasons of a waiting container that rarely pass without a change: the cluster repeats the step at growing intervals."""
_USUAL = frozenset(["ContainerCreating", "PodInitializing"])

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """A cause that keeps a deployment from being ready."""

    text: str
    is_lasting: bool = False
    """The cluster is not expected to recover without a change."""


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """State of one deployment."""

    deployment: str
    image: str
    desired: int
    updated: int
    """Replicas of the present version."""
    ready: int
    state: EndpointState
    reason: str = ""
    is_lasting: bool = False
    """The reason is not expected to pass without a change."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """State of an endpoint: that of its worst deployment."""

    endpoint: str
    context: str
    namespace: str
    state: EndpointState
    reason: str
    deployments: tuple[DeploymentStatus, ...]
    addresses: tuple[str, ...] = ()


def status_of_deployment(deployment: Object, pods: Sequence[Object], events: Iterable[Object] = ()) -> DeploymentStatus:
    """Return the state of a deployment from its pods, and from the events of pods that wait."""
    spec, status = deployment["spec"], deployment.get("status") or {}
    desired = spec.get("replicas", 1)
    updated, available = status.get("updatedReplicas") or 0, status.get("availableReplicas") or 0
    is_observed = (status.get("observedGeneration") or 0) >= deployment["metadata"].get("generation", 0)
    is_complete = is_observed and updated >= desired and available >= desired and (status.get("replicas") or 0) <= updated
    fault = next(_faults(deployment, pods, events), None)
    if is_complete:
        state = EndpointState.HEALTHY
    elif fault is not None and fault.is_lasting:
        state = EndpointState.UNHEALTHY if available else EndpointState.FAILED
    else:
        state = EndpointState.TRANSITIONING
    name = deployment["metadata"]["labels"].get(DEPLOYMENT_LABEL, deployment["metadata"]["name"])
    return DeploymentStatus(
        deployment=name,
        image=spec["template"]["spec"]["containers"][0]["image"],
        desired=desired,
        updated=updated,
        ready=status.get("readyReplicas") or 0,
        state=state,
        reason="" if fault is None or is_complete else fault.text,
        is_lasting=state is not EndpointState.HEALTHY and fault is not None and fault.is_lasting,
    )


def overall(deployments: Sequence[DeploymentStatus]) -> tuple[EndpointState, str]:
    """Return the state of an endpoint and the reason: those of its worst deployment."""
    order = (EndpointState.FAILED, EndpointState.UNHEALTHY, EndpointState.TRANSITIONING, EndpointState.HEALTHY)
    worst = min(deployments, key=lambda each: order.index(each.state))
    return worst.state, worst.reason


def needs_events(pod: Object) -> bool:
    """Return True if only the events of a pod state the cause: it waits for a volume, an image or a node."""
    return not _is_ready(pod) and all("waiting" in (each.get("state") or {}) for each in _containers(pod))


def _faults(deployment: Object, pods: Sequence[Object], events: Iterable[Object]) -> Iterator[Fault]:
    conditions = {each["type"]: each for each in (deployment.get("status") or {}).get("conditions") or []}
    refused = conditions.get("ReplicaFailure", {})
    if refused.get("status") == "True":
        yield Fault(f"{refused.get('reason')}: {refused.get('message')}", is_lasting=True)
    by_pod = {_involved(each): each for each in sorted(events, key=_time)}
    for pod in sorted(pods, key=lambda each: str(each["metadata"].get("creationTimestamp")), reverse=True):
        yield from _faults_of_pod(pod, by_pod)
    progress = conditions.get("Progressing", {})
    if progress.get("status") == "False":
        yield Fault(f"{progress.get('reason')}: {progress.get('message')}", is_lasting=True)


def _faults_of_pod(pod: Object, events: Mapping[str, Object]) -> Iterator[Fault]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if _is_ready(pod) or pod["metadata"].get("deletionTimestamp"):
        return
    for each in _containers(pod):
        waiting = (each.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in _USUAL:
            text = f"pod {name}: {reason}: {waiting.get('message') or 'no message'}"
            yield Fault(text + _last_end(each), is_lasting=reason in _LASTING)
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Fault(f"pod {name}: {condition.get('reason')}: {condition.get('message')}")
    event = events.get(name)
    if event is not None:
        yield Fault(f"pod {name}: {event.get('reason')}: {event.get('message')}")


def _last_end(container: Object) -> str:
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended:
        return ""
    return f"; it ended with exit code {ended.get('exitCode')} ({ended.get('reason')}), restarts: {container.get('restartCount')}"


def _containers(pod: Object) -> list[Object]:
    return (pod.get("status") or {}).get("containerStatuses") or []


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _involved(event: Object) -> str:
    return str((event.get("involvedObject") or {}).get("name", ""))


def _time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
