"""Images of several platforms: foreign wheels, a base image per platform, and an index that a real registry and skopeo read."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.environments.images import ImageRecord, ImageRequest, LayerPart
from edgewright.errors import BadInputError, OperationError
from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud

PLATFORMS = ("linux/arm64", "linux/s390x")
MACHINES = {"arm64": "aarch64", "s390x": "s390x"}


@pytest.fixture(scope="module")
def cloud(foreign_cloud: RunningCloud) -> RunningCloud:
    return foreign_cloud


@pytest.fixture(scope="module")
def registry(foreign_registry: str) -> str:
    return foreign_registry


@pytest.fixture(scope="module")
def client(cloud: RunningCloud) -> Iterator[CloudClient]:
    with CloudClient.connect(str(cloud.state)) as client:
        yield client


@pytest.fixture(scope="module")
def image(client: CloudClient, registry: str) -> ImageRecord:
    environment = Environment(name="both", base_image=f"{registry}/base:1", pip_packages=("everywhere",))
    client.create_environment(environment)
    return client.wait_for_image(client.build_image(ImageRequest(name="both-image", environment="both", platforms=PLATFORMS)))


def content(cloud: RunningCloud, image: ImageRecord, platform: str, part: LayerPart, path: str) -> str:
    [layer] = [each for each in image.layers_of(platform) if each.part is part and "folders" not in each.title]
    raw = cloud.operator().get(f"/v2/{image.name}/blobs/{layer.blob.digest}").body
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        stream = tar.extractfile(path)
        assert stream is not None
        return stream.read().decode()


def test_p103_every_platform_has_its_own_base_and_wheels(cloud: RunningCloud, image: ImageRecord) -> None:
    assert image.platforms == PLATFORMS
    for platform in PLATFORMS:
        architecture = platform.partition("/")[2]
        assert content(cloud, image, platform, LayerPart.BASE, "etc/machine") == architecture
        numpy = content(cloud, image, platform, LayerPart.SERVER, "opt/edgewright/server/numpy.py")
        assert f"manylinux_2_28_{MACHINES[architecture]}" in numpy
    packages = [layer.blob.digest for layer in image.layers if layer.part is LayerPart.PACKAGES]
    assert len(packages) == 2
    assert len(set(packages)) == 1, "a pure Python package is one layer of both platforms"


def test_p103_a_real_registry_takes_the_index_and_skopeo_finds_each_platform(
    client: CloudClient, image: ImageRecord, registry: str, require: Callable[[str], Path], tmp_path: Path
) -> None:
    assert client.push_image(image, f"{registry}/team/both:1") > 0

    def skopeo(*words: str) -> str:
        command = [str(require("skopeo")), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    location = f"docker://{registry}/team/both:1"
    raw = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", location))
    assert [f"{each['platform']['os']}/{each['platform']['architecture']}" for each in raw["manifests"]] == list(PLATFORMS)
    for platform in PLATFORMS:
        architecture = platform.partition("/")[2]
        config = json.loads(skopeo("--override-arch", architecture, "inspect", "--config", "--tls-verify=false", location))
        assert (config["architecture"], config["config"]["User"]) == (architecture, "65534:65534")
        assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.layers_of(platform)]
    skopeo("copy", "--all", "--src-tls-verify=false", location, f"oci:{tmp_path / 'copy'}:both")


def test_p103_a_missing_wheel_is_named_with_its_platform(client: CloudClient, registry: str) -> None:
    client.create_environment(Environment(name="one", base_image=f"{registry}/base:1", pip_packages=("only-arm",)))
    request = ImageRequest(name="one-image", environment="one", platforms=PLATFORMS)
    with pytest.raises(
        OperationError, match=r"only-arm must have a wheel of Python 3\.\d+ for linux/s390x, but the package index"
    ):
        client.wait_for_image(client.build_image(request))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({}, "an image for linux/arm64 needs an environment with a base image", id="no base image"),
        pytest.param({"base_image": "REGISTRY/base:9"}, "refuses GET manifests/9", id="no such base image"),
        pytest.param({"dockerfile": "FROM scratch"}, "needs docker buildx|needs a docker engine", id="Dockerfile"),
    ],
)
def test_p103_a_platform_that_cannot_be_built_is_refused_in_one_line(
    fields: dict[str, str], reason: str, client: CloudClient, registry: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id.replace(" ", "-").lower()
    values = {field: text.replace("REGISTRY", registry) for field, text in fields.items()}
    client.create_environment(Environment(name=name, **values))  # type: ignore[arg-type]
    record = client.build_image(ImageRequest(name=f"{name}-image", environment=name, platforms=("linux/arm64",)))
    with pytest.raises(OperationError, match=reason):
        client.wait_for_image(record)


@pytest.mark.parametrize("platforms", [("linux/riscv64",), ("linux/arm64", "linux/arm64"), ("windows/amd64",)])
def test_p103_an_unknown_platform_is_refused(platforms: tuple[str, ...]) -> None:
    with pytest.raises(BadInputError, match="platforms must be different ones of linux/amd64, linux/arm64"):
        ImageRequest(name="x", platforms=platforms)
