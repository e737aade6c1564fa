"""Manifests of an endpoint: valid by the public schemas, consistent with each other and the image; what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner, Result

from edgewright.cli import main
from edgewright.contracts.environments.images import KEYS_FILE, PORT

BLUE, GREEN = "blue=registry.example/shop:1", "green=registry.example/shop:2"
SPLIT = f"--deployment {BLUE} --deployment {GREEN} --host shop.example.org --gateway infra/public"
OWN_KINDS = ("HTTPRoute", "InferenceService", "Kustomization")
"""Kinds of other projects, which the schemas of Kubernetes do not have."""


def run(words: str, *more: object) -> Result:
    return CliRunner().invoke(main, ["endpoints", "render", *words.split(), *(str(each) for each in more)])


def documents(words: str) -> list[dict[str, Any]]:
    result = run(words)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def of_kind(kind: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in found if each["kind"] == kind]


@pytest.mark.parametrize("version", ["1.28", "1.32", kubernetes_validate.latest_version()])
@pytest.mark.parametrize(
    "words",
    [
        pytest.param("shop --image registry.example/shop:1", id="plain"),
        pytest.param("shop --image registry.example/shop:1 --replicas 3 --namespace ml --no-keys --allow-egress", id="replicas"),
        pytest.param(
            "shop --image registry.example/shop:1 --min-replicas 2 --max-replicas 9 --host shop.example.org", id="scale"
        ),
        pytest.param("shop --image registry.example/shop:1 --gpus 1 --cpu 2 --cpu-limit 4 --memory-limit-gb 8", id="gpu"),
        pytest.param(f"shop {SPLIT} --traffic blue=90 --traffic green=10 --max-replicas 4", id="split"),
    ],
)
def test_every_object_of_kubernetes_follows_its_public_schema(words: str, version: str) -> None:
    found = documents(words)
    checked = [each for each in found if each["kind"] not in OWN_KINDS]
    assert {"Deployment", "Service", "NetworkPolicy"} <= {each["kind"] for each in checked}
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    "words", ["shop --image registry.example/shop:1 --replicas 2", f"shop {SPLIT} --traffic blue=90 --traffic green=10"]
)
def test_services_budgets_and_autoscalers_select_the_pods_of_their_deployment(words: str) -> None:
    found = documents(f"{words} --namespace ml")
    pods = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in of_kind("Deployment", found)}
    for deployment in of_kind("Deployment", found):
        assert deployment["spec"]["selector"]["matchLabels"].items() <= pods[deployment["metadata"]["name"]].items()
    for service in of_kind("Service", found):
        assert sum(service["spec"]["selector"].items() <= labels.items() for labels in pods.values()) == 1
    (policy,) = of_kind("NetworkPolicy", found)
    assert all(policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items() for labels in pods.values())
    assert policy["spec"]["egress"] == []
    assert {each["metadata"]["namespace"] for each in found} == {"ml"}


def test_a_route_splits_by_weight_mirrors_and_lets_a_request_name_its_deployment() -> None:
    found = documents(
        f"shop {SPLIT} --deployment next=registry.example/shop:3 --traffic blue=90 --traffic green=10 --mirror next=25"
    )
    (route,) = of_kind("HTTPRoute", found)
    *named, split = route["spec"]["rules"]
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert {each["matches"][0]["headers"][0]["value"]: each["backendRefs"][0]["name"] for each in named} == {
        "blue": "shop-blue",
        "green": "shop-green",
        "next": "shop-next",
    }
    assert [(each["name"], each["weight"]) for each in split["backendRefs"]] == [("shop-blue", 90), ("shop-green", 10)]
    assert split["filters"][0]["requestMirror"] == {"backendRef": {"name": "shop-next", "port": 80}, "percent": 25}
    services = {each["metadata"]["name"] for each in of_kind("Service", found)}
    assert {"shop", "shop-blue", "shop-green", "shop-next"} == services


def test_the_autoscaler_owns_the_number_of_replicas_and_one_replica_has_no_budget() -> None:
    found = documents("shop --image registry.example/shop:1 --max-replicas 10 --target-utilization 50")
    (deployment,), (autoscaler,) = of_kind("Deployment", found), of_kind("HorizontalPodAutoscaler", found)
    assert "replicas" not in deployment["spec"], "a second apply would reset what the autoscaler chose"
    assert (autoscaler["spec"]["minReplicas"], autoscaler["spec"]["maxReplicas"]) == (1, 10)
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert autoscaler["spec"]["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 50}
    assert of_kind("PodDisruptionBudget", found) == []
    assert len(of_kind("PodDisruptionBudget", documents("shop --image r.example/s:1 --min-replicas 2 --max-replicas 10"))) == 1


def test_the_pod_names_what_the_image_has_and_ends_after_its_requests() -> None:
    (deployment,) = of_kind("Deployment", documents("shop --image registry.example/shop:1 --init-timeout 61"))
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["ports"][0]["containerPort"] == PORT
    assert str(Path(KEYS_FILE).parent) in {each["mountPath"] for each in container["volumeMounts"]}
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 61
    assert pod["terminationGracePeriodSeconds"] > 60
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "500M"}, "limits": {"memory": "500M"}}


def test_a_folder_has_a_kustomization_of_its_files_and_a_secret_that_others_cannot_read(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"primary": "p" * 24, "secondary": "s" * 24}))
    folder = tmp_path / "out"
    result = run("shop --image registry.example/shop:1", "--keys", keys, "-o", folder)
    assert result.exit_code == 0, result.output
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert names == ["secret.yaml", "deployment-main.yaml", "network.yaml"]
    assert {path.name for path in folder.iterdir()} == {*names, "kustomization.yaml"}
    secret = yaml.safe_load((folder / "secret.yaml").read_text())
    kubernetes_validate.validate(secret, "1.32", strict=True)
    assert json.loads(secret["stringData"]["keys.json"])["primary"] == "p" * 24
    assert (folder / "secret.yaml").stat().st_mode & 0o777 == 0o600
    assert "p" * 24 not in result.output


def test_kserve_gets_the_live_deployment_and_then_the_canary_with_its_share() -> None:
    words = f"shop {SPLIT} --traffic blue=80 --traffic green=20 --format kserve --max-replicas 3"
    live, canary = documents(words)
    assert live["spec"]["predictor"]["containers"][0]["image"].endswith(":1")
    assert "canaryTrafficPercent" not in live["spec"]["predictor"]
    assert canary["spec"]["predictor"]["containers"][0]["image"].endswith(":2")
    assert canary["spec"]["predictor"]["canaryTrafficPercent"] == 20
    assert live["metadata"]["name"] == canary["metadata"]["name"] == "shop"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        pytest.param("shop", "must have --image, or --deployment for each of several, but none", id="no image"),
        pytest.param(f"shop --image r.example/a:1 --deployment {BLUE}", "but both were given", id="image and deployments"),
        pytest.param("Shop --image r.example/a:1", "an endpoint's name must have 3 to 32 lower-case", id="name"),
        pytest.param("shop --image NOT//AN", "an image must have the form", id="image"),
        pytest.param(f"shop {SPLIT} --traffic blue=90", "must sum to 100 percent, not 90 (blue 90, green 0)", id="sum"),
        pytest.param(
            f"shop {SPLIT} --traffic red=100", "--traffic must name a deployment (blue, green), not 'red'", id="unknown"
        ),
        pytest.param(f"shop {SPLIT} --traffic blue=100 --mirror red=5", "the mirror must be a deployment", id="unknown mirror"),
        pytest.param(
            f"shop {SPLIT} --traffic blue=50 --traffic green=50 --mirror green=5",
            "must have no share of the requests",
            id="mirror",
        ),
        pytest.param(
            f"shop --deployment {BLUE} --deployment {GREEN} --traffic blue=50 --traffic green=50",
            "need a host and a gateway",
            id="no gateway",
        ),
        pytest.param("shop --image r.example/a:1 --replicas 2 --max-replicas 3", "not both", id="replicas and scale"),
        pytest.param("shop --image r.example/a:1 --min-replicas 2", "min_replicas needs max_replicas", id="least only"),
        pytest.param(
            "shop --image r.example/a:1 --min-replicas 4 --max-replicas 3",
            "must be at most max_replicas, not 4 and 3",
            id="order",
        ),
        pytest.param("shop --image r.example/a:1 --replicas 0", "must be from 1 to", id="no replica"),
        pytest.param("shop --image r.example/a:1 --cpu 2 --cpu-limit 1", "the limit of cpu must be at least", id="cpu limit"),
        pytest.param(
            "shop --image r.example/a:1 --memory-gb 2 --memory-limit-gb 1", "the limit of memory must be", id="memory limit"
        ),
        pytest.param(
            "shop --image r.example/a:1 --max-replicas 3 --target-utilization 0", "from 1 to 100 percent", id="utilization"
        ),
        pytest.param("shop --image r.example/a:1 --namespace My_Space", "a namespace must have at most 63", id="namespace"),
        pytest.param("shop --image r.example/a:1 --host -x.example", "a host must be a name", id="host"),
        pytest.param("shop --image r.example/a:1 --host a.example --gateway a/b/c", "a gateway must be", id="gateway"),
        pytest.param(f"shop {SPLIT} --traffic blue=100 --mirror green=5 --format kserve", "KServe splits", id="mirror of KServe"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused_in_one_line(words: str, line: str, tmp_path: Path) -> None:
    result = run(words, "-o", tmp_path / "out")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert line in result.stderr
    assert not (tmp_path / "out").exists()
