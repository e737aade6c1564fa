"""The files of an endpoint: manifests by name, with a kustomization that lists them."""

from __future__ import annotations

import enum
from typing import Any

import yaml

from edgewright.kubernetes.endpoint import ClusterEndpoint
from edgewright.kubernetes.kserve import inference_services
from edgewright.kubernetes.network import network
from edgewright.kubernetes.workload import metadata, workload


class Format(enum.StrEnum):
    """The kind of manifests."""

    KUBERNETES = "kubernetes"
    KSERVE = "kserve"


def render(endpoint: ClusterEndpoint, kind: Format, keys: str = "") -> dict[str, str]:
    """Return the files by name, in the order in which they are applied.

    Args:
        endpoint: the endpoint.
        kind: plain objects of Kubernetes, or an InferenceService of KServe.
        keys: JSON with the two keys, which becomes a Secret; empty: the Secret exists in the cluster.

    Raises:
        BadInputError: KServe has no such endpoint.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    if keys and endpoint.has_keys:
        files["secret.yaml"] = [_secret(endpoint, keys)]
    if kind is Format.KSERVE:
        for name, document in zip(("inferenceservice.yaml", "canary.yaml"), inference_services(endpoint), strict=False):
            files[name] = [document]
        return {name: _text(documents) for name, documents in files.items()}
    for deployment in endpoint.deployments:
        files[f"deployment-{deployment.name}.yaml"] = workload(endpoint, deployment)
    files["network.yaml"] = network(endpoint)
    rendered = {name: _text(documents) for name, documents in files.items()}
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(rendered)}
    return {**rendered, "kustomization.yaml": _text([kustomization])}


def _secret(endpoint: ClusterEndpoint, keys: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(endpoint, endpoint.keys_secret),
        "stringData": {"keys.json": keys},
    }


def _text(documents: list[dict[str, Any]]) -> str:
    text: str = yaml.safe_dump_all(documents, sort_keys=False, width=120)
    return text
