"""Endpoints in a cluster: applied, followed, read back and deleted by the real client, against an API server of our own.

The server keeps to the published schemas and to the rules of server-side apply; its pods are scoring servers of this machine.
"""

from __future__ import annotations

import json
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from edgewright.cli import main
from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.store import KINDS, Kind, Object, RefusedError
from tests.support.kubernetes.toy_cluster import DEPLOYMENT, POD, SECRET, SERVICE, ToyCluster, toy_cluster

KEYS = {"primary": "p" * 32, "secondary": "s" * 32}
AUTOSCALER = next(each for each in KINDS if each.kind == "HorizontalPodAutoscaler")
HEALTHY = "registry.example/quick:1"
"""An image that answers each path with 200 at once, for tests that score nothing."""
_SERVER = """
import http.server, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
print("serving on", sys.argv[1], flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


def adding_model(path: Path, term: float) -> Path:
    """Write a model that adds a number to each value."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    term_ = helper.make_tensor("term", TensorProto.FLOAT, [1], [term])
    graph = helper.make_graph([helper.make_node("Add", ["x", "term"], ["y"])], "adding", [x], [y], [term_])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with toy_cluster(folder) as running:
        serve = [sys.executable, "-m", "edgewright", "serve"]
        for number in (1, 2):
            model = adding_model(folder / f"plus-{number}.onnx", number)
            command = [*serve, str(model), "--port", "{port}", "--plain-http", "--keys", "{keys}", "--threads", "1"]
            running.images[f"registry.example/plus:{number}"] = command
        (folder / "healthy.py").write_text(_SERVER, "utf-8")
        running.images[HEALTHY] = [sys.executable, "-I", "-S", str(folder / "healthy.py"), "{port}"]
        running.images["registry.example/quick:2"] = running.images[HEALTHY]
        running.images["registry.example/crashing:1"] = [sys.executable, "-I", "-S", "-c", "raise SystemExit('no weights')"]
        yield running


@pytest.fixture(autouse=True)
def kubeconfig(cluster: ToyCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The kubeconfig of the cluster; afterwards no request was outside of the API, and no endpoint is left."""
    path = cluster.server.kubeconfig(tmp_path)
    monkeypatch.setenv("EDGEWRIGHT_KUBECONFIG", str(path))
    cluster.server.requests.clear()
    yield path
    cluster.server.refuses, cluster.max_pods = None, None
    assert cluster.server.faults == []
    store = cluster.store
    with store.changed:
        for kind, namespace, name in list(store.objects):
            if kind != "Namespace":
                store.delete(next(each for each in store.kinds if each.kind == kind), namespace, name)


def run(words: str, *more: object) -> Result:
    return CliRunner().invoke(main, ["endpoints", "cluster", *shlex.split(words), *(str(each) for each in more)])


def succeeded(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(result: Result, code: int = 2) -> str:
    assert result.exit_code == code, result.output
    return result.stderr.strip().splitlines()[-1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def score(address: str, key: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = json.dumps({"data": [[1.0, 2.0]]})
    answer = urllib3.request("POST", f"{address}/score", body=body, headers=headers, retries=False, timeout=60)
    return answer.status, answer.json()


def of_other_tool(cluster: ToyCluster, kind: Kind, body: Object, manager: str = "helm") -> Object:
    return cluster.store.create(kind, "ml", {"apiVersion": kind.group_version, "kind": kind.kind, **body}, manager=manager)


def test_an_applied_endpoint_scores_is_replaced_without_a_gap_and_is_deleted(cluster: ToyCluster, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(KEYS), "utf-8")
    keys.chmod(0o600)
    port = free_port()
    words = f"apply shop --load-balancer {port} --replicas 2 --timeout 4m --keys"
    first = succeeded(run(f"{words} {keys} --image registry.example/plus:1"))
    address = f"http://127.0.0.1:{port}"
    assert f"shop is Healthy in ml of tests: {address}" in first
    assert score(address, KEYS["primary"]) == (200, {"result": [[2.0, 3.0]]})
    assert score(address, "x" * 32)[0] == 401

    second = run(f"{words} {keys} --image registry.example/plus:2 --json")
    assert score(address, KEYS["secondary"]) == (200, {"result": [[3.0, 4.0]]})
    assert json.loads(succeeded(second))["status"]["deployments"][0]["ready"] == 2
    assert "main: 2 of 2 ready, 2 of the present version" in second.stderr
    assert "shop-main-" in succeeded(run("logs shop --lines 50"))

    of_other_tool(cluster, SECRET, {"metadata": {"name": "other"}, "stringData": {"a": "b"}})
    assert "Deployment shop-main" in succeeded(run("delete shop"))
    assert [each["metadata"]["name"] for each in cluster.store.list(SECRET, "ml")] == ["other"]
    assert refusal(run("status shop")).startswith("edgewright: the namespace ml of the context tests must have the endpoint shop")


def test_a_field_of_another_manager_is_a_conflict_by_name_and_nothing_is_written(cluster: ToyCluster) -> None:
    words = f"apply shop --no-keys --replicas 2 --image {HEALTHY}"
    succeeded(run(words))
    store = cluster.store

    def edit(found: Object) -> None:
        found["spec"]["replicas"] = 1
        found["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/quick:2"

    store.update(DEPLOYMENT, "ml", "shop-main", edit, manager="kubectl-edit")
    before = dict(store.objects)
    message = refusal(run(f"{words} --namespace ml --cpu 0.25"))
    assert message == (
        "edgewright: fields of the objects must have no other manager, but these have: "
        "Deployment shop-main .spec.replicas (kubectl-edit), "
        'Deployment shop-main .spec.template.spec.containers[name="service"].image (kubectl-edit); '
        "change them there, or take them over with --force-conflicts"
    )
    unchanged = ("Service", "NetworkPolicy", "PodDisruptionBudget")
    assert all(store.objects[key] == each for key, each in before.items() if key[0] in unchanged)
    assert store.find(DEPLOYMENT, "ml", "shop-main")["spec"]["replicas"] == 1

    forced = run(f"{words} --force-conflicts")
    assert "took over Deployment shop-main .spec.replicas (kubectl-edit)" in forced.stderr
    assert store.find(DEPLOYMENT, "ml", "shop-main")["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        pytest.param({"name": "shop", "labels": {"app.kubernetes.io/managed-by": "Helm"}}, "Helm", id="label of Helm"),
        pytest.param({"name": "shop"}, "kubectl-create", id="no label"),
        pytest.param(
            {"name": "shop", "labels": {"app.kubernetes.io/managed-by": "edgewright", "edgewright.dev/endpoint": "other"}},
            "the endpoint other",
            id="another endpoint",
        ),
        pytest.param(
            {
                "name": "shop",
                "labels": {"app.kubernetes.io/managed-by": "edgewright", "edgewright.dev/endpoint": "shop"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Shop", "name": "operated", "uid": "1"}],
            },
            "Shop operated",
            id="an operator",
        ),
    ],
)
def test_an_object_of_another_owner_is_never_taken_over_or_deleted(cluster: ToyCluster, metadata: Object, owner: str) -> None:
    spec = {"ports": [{"port": 80}], "selector": {"app": "other"}}
    of_other_tool(cluster, SERVICE, {"metadata": metadata, "spec": spec}, manager="kubectl-create")
    message = refusal(run(f"apply shop --no-keys --force-conflicts --image {HEALTHY}"))
    assert message == (
        f"edgewright: Service shop in the namespace ml must be one of the endpoint shop or not exist, but it belongs to {owner}: "
        "choose another name, or delete it there"
    )
    assert cluster.store.list(DEPLOYMENT, "ml") == []
    assert run("delete shop").exit_code == 2
    assert cluster.store.find(SERVICE, "ml", "shop")["spec"]["selector"] == {"app": "other"}


def test_an_autoscaler_keeps_the_number_of_replicas_and_is_removed_with_it(cluster: ToyCluster) -> None:
    succeeded(run(f"apply shop --no-keys --replicas 3 --image {HEALTHY}"))
    succeeded(run(f"apply shop --no-keys --min-replicas 2 --max-replicas 5 --image {HEALTHY}"))
    deployment = cluster.store.find(DEPLOYMENT, "ml", "shop-main")
    assert deployment["spec"]["replicas"] == 3
    cluster.store.update(DEPLOYMENT, "ml", "shop-main", lambda found: found["spec"].update(replicas=4), manager="autoscaler")
    succeeded(run(f"apply shop --no-keys --min-replicas 2 --max-replicas 5 --cpu 0.25 --image {HEALTHY}"))
    assert cluster.store.find(DEPLOYMENT, "ml", "shop-main")["spec"]["replicas"] == 4
    fixed = succeeded(run(f"apply shop --no-keys --replicas 1 --force-conflicts --image {HEALTHY}"))
    assert "removed HorizontalPodAutoscaler shop-main, PodDisruptionBudget shop-main" in fixed
    assert cluster.store.list(AUTOSCALER, "ml") == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(
            "--image registry.example/absent:1 --no-keys",
            'did not start: pod {pod}: ImagePullBackOff: Back-off pulling image "registry.example/absent:1": ErrImagePull: '
            "failed to resolve reference: registry.example/absent:1: not found",
            id="image pull error",
        ),
        pytest.param(
            "--image registry.example/crashing:1 --no-keys",
            "did not start: pod {pod}: CrashLoopBackOff: back-off 10s restarting failed container=service pod={pod}_ml({uid}); "
            "it ended with exit code 1 (Error), restarts: 3",
            id="crash loop",
        ),
        pytest.param(
            f"--image {HEALTHY} --no-keys --gpus 1 --timeout 500ms",
            "was not ready within 0.5 s: pod {pod}: Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu. "
            "preemption: 0/1 nodes are available.",
            id="no node with a GPU",
        ),
        pytest.param(
            f"--image {HEALTHY} --timeout 500ms",
            'was not ready within 0.5 s: pod {pod}: FailedMount: MountVolume.SetUp failed for volume "keys" : '
            'secret "shop-keys" not found',
            id="no secret",
        ),
    ],
)
def test_a_rollout_that_fails_names_the_reason_of_the_cluster(cluster: ToyCluster, words: str, reason: str) -> None:
    message = refusal(run(f"apply shop {words}"), code=1)
    (pod,) = cluster.store.list(POD, "ml")
    told = reason.format(pod=pod["metadata"]["name"], uid=pod["metadata"]["uid"])
    assert message == (
        f"edgewright: endpoint shop {told}; its objects stay, and 'edgewright endpoints cluster logs shop' has its output"
    )
    status = json.loads(succeeded(run("status shop --json")))
    assert status["reason"] == told.partition(": ")[2]
    assert status["state"] == ("Failed" if "did not start" in reason else "Transitioning")


def test_a_refused_quota_is_the_reason_and_the_output_of_a_crash_is_read_back(cluster: ToyCluster) -> None:
    cluster.max_pods = 1
    message = refusal(run("apply shop --no-keys --replicas 2 --image registry.example/crashing:1"), code=1)
    assert 'did not start: FailedCreate: pods "shop-main-' in message
    assert "is forbidden: exceeded quota: compute, requested: pods=1, used: pods=1, limited: pods=1" in message
    (pod,) = cluster.store.list(POD, "ml")
    assert succeeded(run("logs shop")) == f"{pod['metadata']['name']}  no weights\n"


def test_events_of_the_cluster_are_read_back(cluster: ToyCluster) -> None:
    run(f"apply shop --no-keys --gpus 1 --no-wait --image {HEALTHY}")
    run("apply shop --no-keys --gpus 1 --timeout 500ms", "--image", HEALTHY)
    (event,) = json.loads(succeeded(run("logs shop --events --json")))
    assert (event["type"], event["reason"]) == ("Warning", "FailedScheduling")
    assert "Insufficient nvidia.com/gpu" in event["message"]


def test_an_api_server_that_is_away_or_refuses_is_named(cluster: ToyCluster, kubeconfig: Path) -> None:
    cluster.server.refuses = RefusedError(403, "Forbidden", 'deployments.apps is forbidden: User "jo" cannot list resource')
    message = refusal(run("status shop"))
    assert message == (
        "edgewright: the API server of the context tests answers 403: "
        'deployments.apps is forbidden: User "jo" cannot list resource'
    )
    text = kubeconfig.read_text("utf-8")
    kubeconfig.write_text(text.replace(cluster.server.url, f"https://127.0.0.1:{free_port()}"), "utf-8")
    assert refusal(run("status shop"), code=3).startswith(
        "edgewright: the API server of the context tests must answer at https://127.0.0.1"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            "status shop --context absent", "must have the context 'absent', but it has tests: give --context", id="context"
        ),
        pytest.param(
            "status shop --namespace other", "the namespace other of the context tests must have the endpoint shop", id="other"
        ),
        pytest.param(
            f"apply shop --no-keys --namespace other --image {HEALTHY}",
            "the namespace other must exist: create it",
            id="namespace",
        ),
        pytest.param(
            f"apply shop --no-keys --image {HEALTHY} --host shop.example.org --gateway public",
            "must have the kind HTTPRoute (gateway.networking.k8s.io/v1), but it has none: install what provides it",
            id="kind",
        ),
        pytest.param("delete shop", "must have the endpoint shop, but it has none", id="delete"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(words: str, message: str) -> None:
    assert message in refusal(run(words))


def test_a_kubeconfig_that_is_missing_or_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_KUBECONFIG", str(tmp_path / "absent"))
    assert f"{tmp_path / 'absent'} must be a kubeconfig with the context in use" in refusal(run("status shop"))
    (tmp_path / "absent").write_text("- 1\n", "utf-8")
    assert f"{tmp_path / 'absent'} must be a kubeconfig with the context in use" in refusal(run("status shop"))


def test_every_request_has_the_form_of_the_api(cluster: ToyCluster) -> None:
    server: ApiServer = cluster.server
    succeeded(run(f"apply shop --no-keys --image {HEALTHY}"))
    applied = [each for each in server.requests if each.startswith("PATCH ")]
    path = "/apis/apps/v1/namespaces/ml/deployments/shop-main?"
    (checked, written) = [each for each in applied if path in each]
    assert "dryRun=All" in checked
    assert "dryRun" not in written
    assert all("fieldManager=edgewright" in each for each in applied)
    assert all("force=False" in each or "force=false" in each or "force" not in each for each in applied)
