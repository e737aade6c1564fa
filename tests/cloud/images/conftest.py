"""A cloud that builds images and an engine that runs them; the names with `foreign` are for processors that this machine lacks.

Everything foreign is small: wheels with one module, base images with one file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud.images.build.installed import server_pins
from cloud.images.build.layers import LayerStore
from edgewright.contracts import wire
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.environments.images import IMAGE_CONFIG_TYPE, ImageRecord, ImageRequest, LayerPart
from edgewright.contracts.environments.tars import Entry
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, Manifest, Platform, encode_document
from edgewright.contracts.signing import PrivateKey, generate_key, public_pem
from edgewright.contracts.variant import Precision
from edgewright.registries.client import RegistryClient
from edgewright.registries.references import parse_image_reference
from edgewright.sdk import CloudClient
from tests.support.device_packages import Built, Recipe, build
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.docker_registry import docker_registry, free_port
from tests.support.image_services import KEY
from tests.support.running_cloud import RunningCloud, running
from tests.support.wheels import wheel

SCRIPT = """\
import json, os, time
import helper

def init():
    global weight
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "weight.txt")) as file:
        weight = float(file.read())

def run(body):
    request = json.loads(body)
    time.sleep(request.get("sleep_s", 0))
    return {"product": helper.times(weight, request["data"]), "uid": os.getuid(), "level": os.environ["LEVEL"]}
"""


@pytest.fixture(scope="module")
def publisher() -> PrivateKey:
    return generate_key()


@pytest.fixture(scope="module")
def cloud(publisher: PrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    folder = tmp_path_factory.mktemp("images")
    (folder / "publisher.pub").write_text(public_pem(publisher.public_key()))
    with running(folder / "state", "--no-broker", "--trust", str(folder / "publisher.pub")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def client(cloud: RunningCloud) -> Iterator[CloudClient]:
    with CloudClient.connect(str(cloud.state)) as client:
        yield client


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source folder with an entry script, a module beside it, and a file of the model."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "score.py").write_text(SCRIPT)
    (folder / "helper.py").write_text("def times(a, values):\n    return [a * value for value in values]\n")
    return folder


@pytest.fixture(scope="module")
def image(client: CloudClient, source: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageRecord:
    """An image with a model, an environment and a script."""
    weight = tmp_path_factory.mktemp("model") / "weight.txt"
    weight.write_text("2.5")
    client.register_model("product", weight)
    client.create_environment(Environment(name="Leveled", variables={"LEVEL": "7"}, pip_packages=("azureml-defaults",)))
    request = ImageRequest(name="product-image", models=("product",), environment="Leveled")
    return client.wait_for_image(client.build_image(request, script=Path("score.py"), source_directory=source))


@pytest.fixture(scope="module")
def engine(require: Callable[[str], Path]) -> Iterator[DockerEngine]:
    with docker_engine(require) as engine:
        yield engine


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys of a service, which the user of a container may read."""
    folder = tmp_path_factory.mktemp("keys")
    folder.chmod(0o755)
    (folder / "keys.json").write_text(json.dumps({"primary": KEY, "secondary": "secondary-key-of-the-test"}))
    (folder / "keys.json").chmod(0o644)
    return folder


@pytest.fixture(scope="module")
def published(client: CloudClient, publisher: PrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A published package of two variants, which is called digits."""
    built = build(tmp_path_factory.mktemp("package"), Recipe(others=(Precision.INT8,)))
    client.publish(built.layout.path, publisher)
    return built


MACHINES = {"arm64": "aarch64", "s390x": "s390x"}


@pytest.fixture(scope="module")
def foreign_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package index with wheels of all dependencies of the server, and of one package that s390x lacks."""
    folder = tmp_path_factory.mktemp("index")
    for machine in MACHINES.values():
        for name, version in server_pins().items():
            wheel(folder, name, version, tag=f"cp311-cp311-manylinux_2_28_{machine}")
    wheel(folder, "everywhere", "1.0")
    wheel(folder, "only-arm", "2.0", tag="cp311-abi3-manylinux2014_aarch64")
    return folder


@pytest.fixture(scope="module")
def foreign_registry(require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry with a base image of two platforms; return its address."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "blobs").mkdir()
    store = LayerStore(folder / "blobs", folder / "cache")
    with docker_registry(require("docker-registry"), folder, free_port(), {}) as host:
        with RegistryClient(parse_image_reference(f"{host}/base:1")) as client:
            entries = tuple(push_platform(client, store, architecture) for architecture in MACHINES)
            client.push_manifest(encode_document(Index(manifests=entries)), INDEX_TYPE, "1")
        yield host


def push_platform(client: RegistryClient, store: LayerStore, architecture: str) -> Descriptor:
    layer = store.write([Entry(path="etc/machine", source=architecture.encode())], LayerPart.BASE, "base", compressed=True)
    rootfs = {"type": "layers", "diff_ids": [layer.diff_id]}
    raw = json.dumps({"architecture": architecture, "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    config = Descriptor(mediaType=IMAGE_CONFIG_TYPE, digest=wire.digest_of(raw), size=len(raw))
    with store.path_of(layer.blob.digest).open("rb") as stream:
        client.push_blob(layer.blob, stream)
    client.push_blob(config, io.BytesIO(raw))
    manifest = encode_document(Manifest(config=config, layers=(layer.blob,)))
    digest, platform = wire.digest_of(manifest), Platform(architecture=architecture, os="linux")
    client.push_manifest(manifest, MANIFEST_TYPE, digest)
    return Descriptor(mediaType=MANIFEST_TYPE, digest=digest, size=len(manifest), platform=platform)


@pytest.fixture(scope="module")
def foreign_cloud(foreign_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_INDEX_URL", foreign_index.as_uri())
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
            patch.delenv(name, raising=False)
        with running(tmp_path_factory.mktemp("platforms") / "state", "--no-broker") as cloud:
            yield cloud
