"""An endpoint as an InferenceService of KServe, for clusters that have it.

Source: KServe documentation, v1beta1 (kserve.github.io/website, custom predictors and canary rollout). KServe names revisions
itself and keeps the last one that had all requests, so a canary is a second file that is applied after the first.
"""

from __future__ import annotations

from typing import Any

from edgewright.errors import BadInputError
from edgewright.kubernetes.endpoint import ClusterDeployment, ClusterEndpoint
from edgewright.kubernetes.workload import metadata, pod_spec


def inference_services(endpoint: ClusterEndpoint) -> list[dict[str, Any]]:
    """Return the InferenceService of the live deployment, then that of the canary if there is one.

    Raises:
        BadInputError: KServe cannot split like this.
    """
    if len(endpoint.deployments) > 2 or endpoint.mirror is not None:
        raise BadInputError("KServe splits the requests between two deployments and has no mirror: use --format kubernetes")
    live, *canaries = sorted(endpoint.deployments, key=lambda each: -each.traffic)
    return [_inference_service(endpoint, live, None), *(_inference_service(endpoint, each, each.traffic) for each in canaries)]


def _inference_service(endpoint: ClusterEndpoint, deployment: ClusterDeployment, share: int | None) -> dict[str, Any]:
    pod = pod_spec(endpoint, deployment)
    for container in pod["containers"]:
        container["name"] = "kserve-container"
        container.pop("lifecycle")  # the queue proxy of KServe drains
        container["ports"] = [{"containerPort": container["ports"][0]["containerPort"], "protocol": "TCP"}]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container[probe]["httpGet"]["port"] = container["ports"][0]["containerPort"]
    scale = endpoint.scale
    pod |= {"minReplicas": scale.least, "maxReplicas": scale.max_replicas or scale.least}
    if scale.is_automatic:
        pod |= {"scaleMetric": "cpu", "scaleTarget": scale.target_utilization}
    if share is not None:
        pod["canaryTrafficPercent"] = share
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata(endpoint, endpoint.name, deployment),
        "spec": {"predictor": pod},
    }
