"""The Kubernetes manifest of the examples follows the public schemas, and names what an image of ours has."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from edgewright.contracts.environments.images import KEYS_FILE, PORT, USER

MANIFEST = Path(__file__).parents[2] / "examples" / "kubernetes" / "churn.yaml"


def documents() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text("utf-8"))}


@pytest.mark.parametrize("version", ["1.28", "1.32", kubernetes_validate.latest_version()])
def test_every_document_follows_the_schema_of_its_kind(version: str) -> None:
    for document in documents().values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_finds_a_field_that_kubernetes_does_not_have() -> None:
    deployment = documents()["Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.32", strict=True)


def test_the_pod_runs_without_rights_and_names_what_the_image_has() -> None:
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, USER)
    assert container["ports"][0]["containerPort"] == PORT
    assert container["volumeMounts"][0]["mountPath"] == str(PurePosixPath(KEYS_FILE).parent)
    assert PurePosixPath(KEYS_FILE).name in documents()["Secret"]["stringData"]
    paths = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/health/live", "readinessProbe": "/health/ready", "livenessProbe": "/health/live"}
