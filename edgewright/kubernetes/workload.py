"""The pods of an endpoint: Deployment, HorizontalPodAutoscaler and PodDisruptionBudget of each deployment.

The pods follow the Pod Security Standard "restricted" (kubernetes.io/docs/concepts/security/pod-security-standards). A pod that
ends serves on for a few seconds, because proxies learn of its end later than the kubelet; then it finishes its open requests.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

from edgewright.contracts.environments.images import KEYS_FILE, PORT, USER
from edgewright.kubernetes.endpoint import ClusterDeployment, ClusterEndpoint, Resources

ENDPOINT_LABEL = "edgewright.dev/endpoint"
DEPLOYMENT_LABEL = "edgewright.dev/deployment"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
DRAIN_DELAY_S = 5
DRAIN_TIME_S = 60
_PROBE_PERIOD_S = 2
_QUIET_TIME_S = 300
"""Time without load after which replicas are removed; the default of Kubernetes."""


def labels_of(endpoint: ClusterEndpoint, deployment: ClusterDeployment | None = None) -> dict[str, str]:
    """Return the labels of an endpoint's objects, or of those of one deployment."""
    labels = {
        "app.kubernetes.io/name": endpoint.name,
        MANAGED_BY_LABEL: "edgewright",
        ENDPOINT_LABEL: endpoint.name,
    }
    return labels if deployment is None else {**labels, DEPLOYMENT_LABEL: deployment.name}


def metadata(endpoint: ClusterEndpoint, name: str, deployment: ClusterDeployment | None = None) -> dict[str, Any]:
    """Return the metadata of an object."""
    place = {"namespace": endpoint.namespace} if endpoint.namespace else {}
    return {"name": name, **place, "labels": labels_of(endpoint, deployment)}


def selector(endpoint: ClusterEndpoint, deployment: ClusterDeployment | None = None) -> dict[str, str]:
    """Return the labels that select the pods; they never change, as Kubernetes asks."""
    chosen = {ENDPOINT_LABEL: endpoint.name}
    return chosen if deployment is None else {**chosen, DEPLOYMENT_LABEL: deployment.name}


def workload(endpoint: ClusterEndpoint, deployment: ClusterDeployment) -> list[dict[str, Any]]:
    """Return the objects of a deployment's pods."""
    name = endpoint.workload_name(deployment)
    documents = [_deployment(endpoint, deployment, name)]
    if endpoint.scale.is_automatic:
        documents.append(_autoscaler(endpoint, deployment, name))
    if endpoint.scale.least > 1:  # with one replica it would block the drain of a node
        documents.append(_disruption_budget(endpoint, deployment, name))
    return documents


def _deployment(endpoint: ClusterEndpoint, deployment: ClusterDeployment, name: str) -> dict[str, Any]:
    count = {} if endpoint.scale.is_automatic else {"replicas": endpoint.scale.least}  # the autoscaler owns the number
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(endpoint, name, deployment),
        "spec": {
            **count,
            "selector": {"matchLabels": selector(endpoint, deployment)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": math.ceil(endpoint.init_timeout_s) + 300,
            "template": {
                "metadata": {"labels": labels_of(endpoint, deployment)},
                "spec": pod_spec(endpoint, deployment),
            },
        },
    }


def pod_spec(endpoint: ClusterEndpoint, deployment: ClusterDeployment) -> dict[str, Any]:
    """Return the specification of a pod without rights, with one container."""
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": DRAIN_DELAY_S + DRAIN_TIME_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(endpoint, deployment)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    if endpoint.has_keys:
        keys = {"name": "keys", "secret": {"secretName": endpoint.keys_secret, "defaultMode": 0o440}}
        spec["volumes"].append(keys)
    if not endpoint.resources.gpus:
        return spec
    return {**spec, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}


def _container(endpoint: ClusterEndpoint, deployment: ClusterDeployment) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108  inside the container
    if endpoint.has_keys:
        mounts.append({"name": "keys", "mountPath": str(PurePosixPath(KEYS_FILE).parent), "readOnly": True})
    pause = f"import time; time.sleep({DRAIN_DELAY_S})"
    return {
        "name": "service",
        "image": deployment.image,
        **({} if endpoint.has_keys else {"args": ["--plain-http"]}),  # in place of the image's own, which name the file of keys
        "ports": [{"name": "http", "containerPort": PORT}],
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": resources_of(endpoint.resources),
        "volumeMounts": mounts,
        "startupProbe": {
            "httpGet": {"path": "/health/ready", "port": "http"},
            "periodSeconds": _PROBE_PERIOD_S,
            "failureThreshold": math.ceil(endpoint.init_timeout_s / _PROBE_PERIOD_S),
        },
        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 2},
        "livenessProbe": {"httpGet": {"path": "/health/live", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"exec": {"command": ["python3", "-I", "-S", "-c", pause]}}},
    }


def resources_of(resources: Resources) -> dict[str, Any]:
    """Return requests and limits."""
    limits = {"memory": _memory(resources.memory_limit_gb or resources.memory_gb)}
    if resources.cpu_limit is not None:
        limits["cpu"] = _cpu(resources.cpu_limit)
    if resources.gpus:
        limits["nvidia.com/gpu"] = str(resources.gpus)
    return {"requests": {"cpu": _cpu(resources.cpu), "memory": _memory(resources.memory_gb)}, "limits": limits}


def _cpu(processors: float) -> str:
    return f"{max(1, round(processors * 1000))}m"


def _memory(gigabytes: float) -> str:
    return f"{max(1, math.ceil(gigabytes * 1000))}M"


def _autoscaler(endpoint: ClusterEndpoint, deployment: ClusterDeployment, name: str) -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": endpoint.scale.target_utilization}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(endpoint, name, deployment),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": endpoint.scale.least,
            "maxReplicas": endpoint.scale.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": _QUIET_TIME_S}},
        },
    }


def _disruption_budget(endpoint: ClusterEndpoint, deployment: ClusterDeployment, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(endpoint, name, deployment),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(endpoint, deployment)}},
    }
