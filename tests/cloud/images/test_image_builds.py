"""Images: a real cloud builds them, and a real docker engine pulls and runs them (protocol.md P100 to P102)."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import platform
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from onnx import TensorProto, helper

from edgewright.cli import main
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.environments.images import BuildState, ImageRecord, ImageRequest, LayerPart
from edgewright.contracts.models.registration import Framework, Registration
from edgewright.contracts.oci import INDEX_TYPE, Index, encode_document
from edgewright.errors import BadInputError, ConflictError, NotFoundError, OperationError
from edgewright.registries.client import RegistryClient
from edgewright.registries.references import parse_image_reference
from edgewright.sdk import CloudClient, InferenceConfig, Model, Workspace
from edgewright.sdk import Environment as SdkEnvironment
from tests.support.device_packages import Built
from tests.support.docker_engine import DockerEngine
from tests.support.docker_registry import HTPASSWD, USER, docker_registry, free_port
from tests.support.image_services import score, started, wait_until_ready
from tests.support.running_cloud import RunningCloud, running


def layer_digests(record: ImageRecord) -> dict[str, str]:
    return {layer.title: layer.blob.digest for layer in record.layers}


def test_p100_an_image_has_a_layer_per_part_and_names_where_it_comes_from(image: ImageRecord) -> None:
    assert (image.state, image.version, image.request.models) == (BuildState.SUCCEEDED, 1, ("product:1",))
    assert [layer.part for layer in image.layers] == [LayerPart.BASE, LayerPart.SERVER, LayerPart.MODEL, LayerPart.SCRIPT]
    assert image.unpacked_bytes <= 250_000_000  # the limit of an ONNX model without code, whose layers are the same
    assert image.labels["dev.edgewright.environment"] == "Leveled:1"
    assert image.labels["dev.edgewright.models"].startswith("product:1@sha256:")
    assert image.labels["dev.edgewright.script"].startswith("score.py@sha256:")


def test_p100_a_changed_line_of_the_script_makes_only_its_layer_new(
    client: CloudClient, image: ImageRecord, source: Path
) -> None:
    script = (source / "score.py").read_text()
    (source / "score.py").write_text(script + "# changed\n")
    request = ImageRequest(name="product-image", models=("product",), environment="Leveled")
    changed = client.wait_for_image(client.build_image(request, script=source / "score.py", source_directory=source))
    (source / "score.py").write_text(script)
    same = client.wait_for_image(client.build_image(request, script=source / "score.py", source_directory=source))
    before, after = layer_digests(image), layer_digests(changed)
    assert {title for title in after if after[title] != before[title]} == {"score.py"}
    assert changed.new_bytes == changed.layers[-1].blob.size < 20_000
    assert (same.new_bytes, layer_digests(same)) == (0, before)
    assert same.index == image.index


def test_p100_the_bill_of_materials_is_attached_to_the_index(cloud: RunningCloud, image: ImageRecord) -> None:
    assert image.index is not None
    operator = cloud.operator()
    referrers = operator.get(f"/v2/product-image/referrers/{image.index.digest}?artifactType=application/vnd.cyclonedx%2Bjson")
    [entry] = referrers.json()["manifests"]
    [layer] = operator.get(f"/v2/product-image/manifests/{entry['digest']}").json()["layers"]
    raw = operator.get(f"/v2/product-image/blobs/{layer['digest']}").body
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(raw.decode()) is None
    bill = json.loads(raw)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    [image_entry] = [each for each in bill["dependencies"] if each["ref"] == "image:product-image"]
    assert set(image_entry["dependsOn"]) == {each["bom-ref"] for each in bill["components"]}
    components = {(each["type"], each["name"]): each["version"] for each in bill["components"]}
    assert components["library", "numpy"] == metadata.version("numpy")
    assert components["machine-learning-model", "product"] == "1"
    assert components["platform", "python"] == platform.python_version()


def test_p100_the_log_of_a_build_names_every_layer(client: CloudClient, image: ImageRecord) -> None:
    log = "".join(client.follow_build(image))
    for text in ("layer part=base", "layer part=server", "score.py", "azureml-defaults is left out", "built index=sha256:"):
        assert text in log
    assert "Warning" not in log


def test_p100_names_that_cannot_be_are_refused_before_a_build(client: CloudClient, image: ImageRecord) -> None:
    with pytest.raises(NotFoundError, match="no model is called 'produkt'; known: product"):
        client.build_image(ImageRequest(name="x-image", models=("produkt",)))
    with pytest.raises(NotFoundError, match="no environment is called 'Level'; known: Leveled"):
        client.build_image(ImageRequest(name="x-image", models=("product",), environment="Level"), script=Path(__file__))
    with pytest.raises(ConflictError, match="an image's name must not be that of a model, but product is one"):
        client.build_image(ImageRequest(name="product"))
    with pytest.raises(BadInputError, match="its framework is custom: give an entry script"):
        client.build_image(ImageRequest(name="x-image", models=("product",)))
    with pytest.raises(NotFoundError, match="missing.py: no such file"):
        client.build_image(ImageRequest(name="x-image"), script=Path("missing.py"))
    with pytest.raises(NotFoundError, match="no image is called 'x-image'; known: product-image"):
        client.image("x-image")


def test_the_commands_show_an_image_its_layers_and_its_log(cloud: RunningCloud, image: ImageRecord) -> None:
    def shown(*words: str) -> str:
        result = CliRunner().invoke(main, ["images", *words, "--cloud", str(cloud.state)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert ["product-image", "1", "Succeeded"] in [line.split()[:3] for line in shown("list").splitlines()]
    assert "dev.edgewright.environment=Leveled:1" in shown("show", "product-image:1")
    assert "layer part=base" in shown("log", "product-image:1")
    lines = shown("why-size", "product-image:1").splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["part", "server"]
    assert lines[-1].split()[0] == "all"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        pytest.param({"python_version": "3.2"}, "needs Python 3.2, but the building machine has", id="other Python"),
        pytest.param(
            {"pip_packages": ("no-such-distribution",), "pip_index_url": "file:///nowhere"},
            "pip: Could not find a version that satisfies the requirement no-such-distribution",
            id="no such package",
        ),
    ],
)
def test_p101_a_build_that_fails_registers_nothing(
    environment: dict[str, Any], reason: str, client: CloudClient, cloud: RunningCloud, request: pytest.FixtureRequest
) -> None:
    name = f"failed-{request.node.callspec.id.replace(' ', '-').lower()}"
    client.create_environment(Environment(name=name, **environment))
    record = client.build_image(ImageRequest(name=name, environment=name))
    with pytest.raises(OperationError, match=reason):
        client.wait_for_image(record)
    assert client.image(name).state is BuildState.FAILED
    assert cloud.operator().get(f"/v2/{name}/tags/list").status == 404


def test_p101_a_full_disk_ends_a_build_with_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state, "--no-broker") as cloud, CloudClient.connect(str(state)) as client:
        # A limit of the size of files; the kernel refuses what exceeds it in the same call as for a full disk.
        resource.prlimit(cloud.process.pid, resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
        record = client.build_image(ImageRequest(name="big-image"))
        with pytest.raises(OperationError, match="exceeds the largest permitted file size"):
            client.wait_for_image(record)
        assert cloud.operator().get("/v2/big-image/tags/list").status == 404
        assert list((state / "registry" / "blobs" / "sha256").iterdir()) == []
        assert list((state / "images" / "work").iterdir()) == []


@pytest.fixture
def warm_state(cloud: RunningCloud, image: ImageRecord, tmp_path: Path) -> Path:
    """The state directory of another cloud, with the layers that this one has made."""
    state = tmp_path / "state"
    with running(state, "--no-broker"):
        pass
    shutil.copytree(cloud.state / "registry" / "blobs", state / "registry" / "blobs", dirs_exist_ok=True)
    shutil.copytree(cloud.state / "images" / "cache", state / "images" / "cache")
    return state


def test_p102_a_build_that_ran_when_the_cloud_was_killed_is_built_after_its_start(
    warm_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as index:  # a package index that never answers
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        with running(warm_state, "--no-broker") as cloud, CloudClient.connect(str(warm_state)) as client:
            client.create_environment(Environment(name="slow", pip_packages=("anything",), pip_index_url=url))
            record = client.build_image(ImageRequest(name="slow-image", environment="slow"))
            index.accept()[0].close()  # the build has begun to ask for packages
            assert client.image("slow-image").state is BuildState.RUNNING
            cloud.kill()
    with running(warm_state, "--no-broker"), CloudClient.connect(str(warm_state)) as client:
        ended = [*client.follow_build(record), client.image("slow-image")][-1]
    assert isinstance(ended, ImageRecord)
    assert (ended.state, "satisfies the requirement anything" in ended.reason) == (BuildState.FAILED, True)


@pytest.fixture(scope="module")
def service(engine: DockerEngine, cloud: RunningCloud, client: CloudClient, image: ImageRecord, keys: Path) -> str:
    """A container of the image, pulled from the cloud."""
    location = client.image_location(image)
    registry = location.partition("/")[0]
    engine.run("login", "--username", "operator", "--password-stdin", registry, text=cloud.token)
    engine.run("pull", location)
    return started(engine, "service", location, keys)


def test_p100_docker_pulls_and_runs_the_image_without_rights(engine: DockerEngine, service: str) -> None:
    wait_until_ready(service, engine)
    assert score(service, {"data": [1, 2]}) == (200, {"product": [2.5, 5.0], "uid": 65534, "level": "7"})
    assert score(service, {"data": [1]}, key="another-key-of-the-test")[0] == 401
    health = json.loads(engine.run("inspect", "--format", "{{json .Config.Healthcheck.Test}}", "service"))
    engine.run("exec", "service", *health[1:])
    with pytest.raises(AssertionError, match="Read-only file system"):
        engine.run("exec", "service", "python3", "-c", "open('/var/azureml-app/new', 'w')")


def test_p100_sigterm_answers_pending_requests_before_the_container_ends(engine: DockerEngine, service: str) -> None:
    wait_until_ready(service, engine)
    answers: list[tuple[int, Any]] = []
    pending = threading.Thread(target=lambda: answers.append(score(service, {"data": [2], "sleep_s": 1.5})))
    pending.start()
    time.sleep(0.5)  # the request is on its way
    engine.run("stop", "--time", "20", "service")
    pending.join(10)
    assert answers == [(200, {"product": [5.0], "uid": 65534, "level": "7"})]
    assert engine.run("inspect", "--format", "{{.State.ExitCode}}", "service") == "0"


def test_p100_an_onnx_model_without_code_is_pushed_to_a_registry_and_runs_from_there(
    engine: DockerEngine, client: CloudClient, keys: Path, require: Callable[[str], Path], tmp_path: Path
) -> None:
    nodes = [helper.make_node("Mul", ["x", "x"], ["square"])]
    x, square = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "square"))
    graph = helper.make_graph(nodes, "squares", [x], [square])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "squares.onnx").write_bytes(model.SerializeToString())
    client.register_model("squares", tmp_path / "squares.onnx", Registration(framework=Framework.ONNX))
    image = client.wait_for_image(client.build_image(ImageRequest(name="squares-image", models=("squares",))))
    assert image.unpacked_bytes <= 250_000_000
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = {"auth": {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}}}
    with docker_registry(require("docker-registry"), tmp_path, free_port(), auth) as host:
        location = f"{host}/team/squares:1"
        assert client.push_image(image, location, credentials=USER) > 80_000_000
        assert image.index is not None
        assert image.bill is not None
        tag = image.index.digest.replace(":", "-")  # this registry has no referrers API
        with RegistryClient(parse_image_reference(location), USER) as registry:
            [listed] = json.loads(registry.manifest(tag)[0])["manifests"]
            assert (listed["digest"], listed["artifactType"]) == (image.bill.digest, "application/vnd.cyclonedx+json")
            [manifest] = json.loads(registry.manifest("1")[0])["manifests"]
            other = replace(image.bill, digest=manifest["digest"], size=manifest["size"], artifactType="other/signature")
            registry.push_manifest(encode_document(Index(manifests=(other,))), INDEX_TYPE, tag)
            assert client.push_image(image, f"{host}/team/squares:2", credentials=USER) == 0
            types = [each["artifactType"] for each in json.loads(registry.manifest(tag)[0])["manifests"]]
            assert types == ["other/signature", "application/vnd.cyclonedx+json"]
        engine.run("login", "--username", USER.user, "--password-stdin", host, text=USER.password)
        engine.run("pull", location)
        address = started(engine, "squares", location, keys)
        wait_until_ready(address, engine, "squares")
        assert score(address, {"data": [[1, 2], [3, 4]]}) == (200, {"result": [[1.0, 4.0], [9.0, 16.0]]})


def test_p100_the_folder_for_docker_build_makes_the_same_image(
    engine: DockerEngine, service: str, client: CloudClient, image: ImageRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")  # the engine of Debian has no buildx
    dockerfile = client.save_image_context(image, tmp_path / "context")
    with pytest.raises(BadInputError, match="context must not exist yet"):
        client.save_image_context(image, tmp_path / "context")
    engine.run("build", "--tag", "from-context", dockerfile.parent)
    fields = ("Entrypoint", "Cmd", "Env", "User", "WorkingDir", "Labels", "StopSignal", "ExposedPorts", "Healthcheck")
    configs = [json.loads(engine.run("inspect", name))[0]["Config"] for name in ("from-context", client.image_location(image))]
    for config in configs:
        config["Env"].sort()
    assert {name: configs[0][name] for name in fields} == {name: configs[1][name] for name in fields}
    program = "import edgewright.cli, os; print(os.getuid(), sorted(os.listdir('/var/azureml-app')))"
    shown = engine.run("run", "--rm", "--entrypoint", "python3", "from-context", "-c", program)
    assert shown.splitlines()[-1] == "65534 ['azureml-models', 'helper.py', 'score.py']"  # after a warning on IP forwarding


def test_p100_a_model_package_is_pulled_without_a_login_or_saved_for_docker_build(
    engine: DockerEngine,
    cloud: RunningCloud,
    client: CloudClient,
    image: ImageRecord,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))  # no login is stored there
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")  # the engine of Debian has no buildx
    ws = Workspace(cloud=str(cloud.state))
    config = InferenceConfig("score.py", source_directory=str(source), environment=SdkEnvironment.get(ws, "Leveled"))

    package = Model.package(ws, ["product"], config, image_name="packed")
    package.pull()
    registry = package.get_container_registry()
    assert package.location == f"{registry.address}/packed:1"
    assert (registry.username, registry.password) == ("operator", cloud.token)
    assert not (tmp_path / "docker").exists()
    with pytest.raises(ConflictError, match="must be a Dockerfile to be saved, but this one is an image: call pull"):
        package.save(tmp_path / "context")

    dockerfile = Model.package(ws, ["product"], config, generate_dockerfile=True, image_name="packed")
    dockerfile.wait_for_creation(show_output=True)
    assert capsys.readouterr().out.endswith("Package creation Succeeded\n")
    dockerfile.save(tmp_path / "context")
    dockerfile.save(tmp_path / "context")  # into a folder that exists
    engine.run("build", "--tag", "packed-context", tmp_path / "context")
    configs = [json.loads(engine.run("inspect", name))[0]["Config"] for name in ("packed-context", package.location)]
    assert configs[0]["Labels"]["dev.edgewright.models"].startswith("product:1@sha256:")
    assert [config["Labels"] for config in configs] == [configs[0]["Labels"]] * 2
    with pytest.raises(ConflictError, match=r"must be an image to be pulled, but this one is a Dockerfile: call save\(\)"):
        dockerfile.pull()
    assert dockerfile.get_logs(decode=False, offset=3) == dockerfile.get_logs().encode()[3:]
    assert dockerfile.serialize() == {
        "generateDockerfile": True,
        "state": "Succeeded",
        "location": f"{registry.address}/packed:2",
    }


def test_p100_a_dockerfile_is_built_by_the_engine(
    engine: DockerEngine, warm_state: Path, monkeypatch: pytest.MonkeyPatch, image: ImageRecord, client: CloudClient
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    dockerfile = f"FROM {client.image_location(image)}\nENV GREETING=hello\n"
    with running(warm_state, "--no-broker"), CloudClient.connect(str(warm_state)) as other:
        other.create_environment(Environment(name="docked", dockerfile=dockerfile))
        built = other.wait_for_image(other.build_image(ImageRequest(name="docked-image", environment="docked")))
        other.create_environment(Environment(name="docked", dockerfile=dockerfile + "RUN no-such-program\n"))
        with pytest.raises(OperationError, match="docker build: .*no-such-program|docker build: .*OCI runtime"):
            other.wait_for_image(other.build_image(ImageRequest(name="docked-image", environment="docked")))
    assert [layer.part for layer in built.layers][-2:] == [LayerPart.BASE, LayerPart.SERVER]
    assert {layer.diff_id for layer in image.layers} <= {layer.diff_id for layer in built.layers}


def test_p100_the_layers_of_a_package_are_layers_of_its_image_and_are_neither_stored_nor_sent_twice(
    engine: DockerEngine,
    client: CloudClient,
    published: Built,
    keys: Path,
    require: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    image = client.wait_for_image(client.build_image(ImageRequest(name="digits-image", models=("digits",))))
    layers = [layer for layer in image.layers if layer.part is LayerPart.MODEL]
    shared = {layer.digest for layer in published.package.variant("fp32").manifest.layers}
    assert shared < {layer.blob.digest for layer in layers}
    assert sum(layer.blob.size for layer in layers if layer.blob.digest not in shared) < 30_000  # variant.json and the link
    with docker_registry(require("docker-registry"), tmp_path, free_port(), {}) as host:
        copy = [str(require("skopeo")), "copy", "--all", "--dest-tls-verify=false", f"oci:{published.layout.path}:digits"]
        subprocess.run([*copy, f"docker://{host}/team/digits:package"], check=True, capture_output=True, timeout=120)
        sent = client.push_image(image, f"{host}/team/digits:image")
        kept = sum(layer.blob.size for layer in layers if layer.blob.digest in shared)
        assert 0 < sent + kept - image.size_bytes < 20_000  # the config
        assert client.push_image(image, f"{host}/other/digits:image", mount_from="team/digits") == 0
        engine.run("pull", f"{host}/other/digits:image")
        address = started(engine, "digits", f"{host}/other/digits:image", keys)
        wait_until_ready(address, engine, "digits")
        answer = score(address, {"data": published.samples[:2].tolist()})
    assert (answer[0], np.allclose(answer[1]["result"], published.answers[:2], rtol=1e-4, atol=1e-2)) == (200, True), answer
