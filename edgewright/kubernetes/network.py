"""The addresses of an endpoint: Services, a NetworkPolicy, and a host name by an HTTPRoute or an Ingress.

Sources: Gateway API (gateway-api.sigs.k8s.io/reference/spec, HTTPRoute v1; mirrors by percentage: GEP-3171) and the reference of
Kubernetes for networking.k8s.io/v1.
"""

from __future__ import annotations

from typing import Any

from edgewright.kubernetes.endpoint import ClusterDeployment, ClusterEndpoint
from edgewright.kubernetes.workload import metadata, selector

DEPLOYMENT_HEADER = "azureml-model-deployment"
"""A request with this header goes to the deployment that it names, past the shares, as at Azure ML's online endpoints."""
SERVICE_PORT = 80
LOAD_BALANCER = "LoadBalancer"


def network(endpoint: ClusterEndpoint) -> list[dict[str, Any]]:
    """Return the objects of an endpoint's addresses."""
    documents = [_service(endpoint, None)]
    if len(endpoint.deployments) > 1:
        documents += [_service(endpoint, each) for each in endpoint.deployments]
    documents.append(_network_policy(endpoint))
    if endpoint.host:
        documents.append(_route(endpoint) if endpoint.gateway else _ingress(endpoint))
    return documents


def _service(endpoint: ClusterEndpoint, deployment: ClusterDeployment | None) -> dict[str, Any]:
    """Return the Service of a deployment, or that of the endpoint.

    The Service of an endpoint with several deployments has the pods of the one with the largest share: a Service cannot weight.
    """
    name = endpoint.name if deployment is None else endpoint.workload_name(deployment)
    chosen = deployment or max(endpoint.deployments, key=lambda each: each.traffic)
    outside_port = endpoint.load_balancer_port if deployment is None else 0
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(endpoint, name, deployment),
        "spec": {
            **({"type": LOAD_BALANCER} if outside_port else {}),
            "selector": selector(endpoint, chosen),
            "ports": [{"name": "http", "port": outside_port or SERVICE_PORT, "targetPort": "http", "appProtocol": "http"}],
        },
    }


def _network_policy(endpoint: ClusterEndpoint) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(endpoint, endpoint.name),
        "spec": {
            "podSelector": {"matchLabels": selector(endpoint)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"port": "http", "protocol": "TCP"}]}],
            "egress": [{}] if endpoint.allows_egress else [],
        },
    }


def _route(endpoint: ClusterEndpoint) -> dict[str, Any]:
    namespace, _, name = endpoint.gateway.rpartition("/")
    parent = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(endpoint, endpoint.name),
        "spec": {"parentRefs": [parent], "hostnames": [endpoint.host], "rules": _rules(endpoint)},
    }


def _rules(endpoint: ClusterEndpoint) -> list[dict[str, Any]]:
    """Return a rule per deployment that a request names, then the one that splits all others."""
    if len(endpoint.deployments) == 1:
        return [{"backendRefs": [{"name": endpoint.name, "port": SERVICE_PORT}]}]
    named = [
        {
            "matches": [{"headers": [{"name": DEPLOYMENT_HEADER, "value": each.name}]}],
            "backendRefs": [{"name": endpoint.workload_name(each), "port": SERVICE_PORT}],
        }
        for each in endpoint.deployments
    ]
    backends = [
        {"name": endpoint.workload_name(each), "port": SERVICE_PORT, "weight": each.traffic}
        for each in endpoint.deployments
        if each.traffic
    ]
    split: dict[str, Any] = {"backendRefs": backends}
    if endpoint.mirror is not None:
        name, percent = endpoint.mirror
        target = {"name": f"{endpoint.name}-{name}", "port": SERVICE_PORT}
        split["filters"] = [{"type": "RequestMirror", "requestMirror": {"backendRef": target, "percent": percent}}]
    return [*named, split]


def _ingress(endpoint: ClusterEndpoint) -> dict[str, Any]:
    backend = {"service": {"name": endpoint.name, "port": {"name": "http"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": metadata(endpoint, endpoint.name),
        "spec": {
            "rules": [{"host": endpoint.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
            "tls": [{"hosts": [endpoint.host], "secretName": f"{endpoint.name}-tls"}],
        },
    }
