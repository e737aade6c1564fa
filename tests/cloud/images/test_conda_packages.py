"""Conda packages from a channel in a folder; without a reachable channel, packages of the same names from pip."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud.images.build.conda import conda_layer, reachable_channels
from cloud.images.build.layers import LayerStore
from cloud.images.build.machine import PYTHON_VERSION, own_platform
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.environments.images import ImageLayer, ImageRequest, LayerPart
from edgewright.errors import BadInputError, OperationError
from edgewright.sdk import CloudClient
from tests.support.conda_channel import conda_package, index
from tests.support.docker_registry import free_port
from tests.support.running_cloud import RunningCloud
from tests.support.wheels import wheel

SITE = f"lib/python{PYTHON_VERSION}/site-packages"


@pytest.fixture(scope="module")
def channel(require_package: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a channel with a package that needs another one and Python."""
    require_package("rattler")
    folder = tmp_path_factory.mktemp("channel")
    module = b"from tinydep import VALUE\n\ndouble = 2 * VALUE\n"
    conda_package(folder, "tiny", "1.0", {f"{SITE}/tiny.py": module}, depends=["tinydep >=2", f"python {PYTHON_VERSION}.*"])
    conda_package(folder, "tinydep", "1.0", {f"{SITE}/tinydep.py": b"VALUE = 1\n"})
    conda_package(folder, "tinydep", "2.0", {f"{SITE}/tinydep.py": b"VALUE = 21\n"})
    for subdir in ("linux-64", "linux-aarch64"):
        conda_package(folder, "python", f"{PYTHON_VERSION}.4", {"bin/python3": b"conda's own"}, subdir=subdir)
        conda_package(folder, "compiled", "3.0", {f"lib/{subdir}.so": b"library"}, subdir=subdir)
    index(folder)
    return folder.as_uri()


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    (tmp_path / "blobs").mkdir()
    return LayerStore(tmp_path / "blobs", tmp_path / "cache")


def layer_of(store: LayerStore, folder: Path, channel: str, *specs: str, platform: str = own_platform()) -> ImageLayer:
    return conda_layer(store, specs, (channel,), platform, folder, folder / "conda-cache")


def test_packages_and_what_they_need_run_in_the_images_own_python(store: LayerStore, channel: str, tmp_path: Path) -> None:
    layer = layer_of(store, tmp_path, channel, "tiny")
    assert (layer.part, layer.title) == (LayerPart.CONDA, "tiny 1.0, tinydep 2.0")
    with tarfile.open(store.path_of(layer.blob.digest)) as tar:
        tar.extractall(tmp_path / "root", filter="data")
    prefix = tmp_path / "root" / "opt/edgewright/conda"
    assert sorted(path.name for path in prefix.iterdir()) == ["lib"], "neither conda's Python nor its records"
    command = [sys.executable, "-S", "-c", "import tiny; print(tiny.double)"]
    shown = subprocess.run(command, env={"PYTHONPATH": str(prefix / SITE)}, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "42"


def test_the_same_packages_are_the_same_layer(channel: str, tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        (tmp_path / name / "blobs").mkdir(parents=True)
        store = LayerStore(tmp_path / name / "blobs", tmp_path / name / "cache")
        digests.add(layer_of(store, tmp_path / name, channel, "tiny").blob.digest)
    assert len(digests) == 1


def test_another_platform_gets_its_own_packages(store: LayerStore, channel: str, tmp_path: Path) -> None:
    layer = layer_of(store, tmp_path, channel, "compiled", platform="linux/arm64")
    with tarfile.open(store.path_of(layer.blob.digest)) as tar:
        assert "opt/edgewright/conda/lib/linux-aarch64.so" in tar.getnames()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param(
            "absent", "conda: Cannot solve the request because of: No candidates were found for absent", id="no package"
        ),
        pytest.param(
            "tinydep=9.*", "conda: Cannot solve the request because of: No candidates were found for tinydep 9", id="version"
        ),
        pytest.param("tiny ><1", "conda: ", id="no specification"),
    ],
)
def test_a_refusal_of_the_solver_is_shown_in_its_own_words(
    spec: str, words: str, store: LayerStore, channel: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=words) as refused:
        layer_of(store, tmp_path, channel, spec)
    assert "\n" not in str(refused.value)


def test_channels_that_do_not_answer_are_left_out_and_logged(
    channel: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CONDA_CHANNEL_ALIAS", raising=False)
    closed, absent = f"http://127.0.0.1:{free_port()}/channel", (tmp_path / "absent").as_uri()
    channels = ("conda-forge", closed, absent, f"{channel}/")
    log: list[str] = []
    environment = Environment(name="e", conda_packages=("tiny",), conda_channels=channels)
    assert reachable_channels(environment, log.append) == (channel,)
    assert log[0] == "conda channel conda-forge has no address: give the address, or set CONDA_CHANNEL_ALIAS for the cloud"
    assert [line.partition(" cannot be reached: ")[0] for line in log[1:]] == [
        f"conda channel {closed}",
        f"conda channel {absent}",
    ]
    monkeypatch.setenv("CONDA_CHANNEL_ALIAS", channel.rpartition("/")[0])
    named = Environment(name="e", conda_packages=("tiny",), conda_channels=(channel.rpartition("/")[2],))
    assert reachable_channels(named, log.append) == (channel,)


@pytest.fixture(scope="module")
def client(foreign_cloud: RunningCloud) -> CloudClient:
    return CloudClient.connect(str(foreign_cloud.state))


def built(client: CloudClient, registry: str, name: str, *channels: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Build an environment for another platform; return log, labels and variables."""
    base = f"{registry}/base:1"
    packages = ("tiny", f"python={PYTHON_VERSION}", "azureml-defaults")
    client.create_environment(Environment(name=name, base_image=base, conda_packages=packages, conda_channels=channels))
    request = ImageRequest(name=f"{name}-image", environment=name, platforms=("linux/arm64",))
    record = client.build_image(request)
    log = "".join(client.follow_build(record)).splitlines()
    image = client.wait_for_image(record)
    [manifest] = json.loads(registry_document(client, image.name, str(image.version)))["manifests"]
    config = json.loads(registry_document(client, image.name, manifest["digest"]))["config"]
    raw = client._connection.request("GET", f"/v2/{image.name}/blobs/{config['digest']}").body
    return log, image.labels, json.loads(raw)["config"]["Env"]


def registry_document(client: CloudClient, name: str, reference: str) -> bytes:
    return client._connection.request("GET", f"/v2/{name}/manifests/{reference}").body


def test_p105_an_image_has_its_conda_packages_from_the_channel(client: CloudClient, foreign_registry: str, channel: str) -> None:
    log, labels, variables = built(client, foreign_registry, "with-channel", channel)
    assert labels["dev.edgewright.conda"] == f"installed from {channel}"
    assert "azureml-defaults is left out: edgewright's own server takes its place" in log
    [path] = [each for each in variables if each.startswith("PYTHONPATH=")]
    folders = path.partition("=")[2].split(":")
    assert folders == ["/opt/edgewright/packages", f"/opt/edgewright/conda/{SITE}", "/opt/edgewright/server"]


def test_p105_without_a_reachable_channel_pip_installs_and_log_and_label_say_so(
    client: CloudClient, foreign_registry: str, foreign_index: Path, channel: str
) -> None:
    wheel(foreign_index, "tiny", "0.5")
    log, labels, _ = built(client, foreign_registry, "without-channel", "conda-forge")
    assert labels["dev.edgewright.conda"] == "installed by pip"
    assert "conda packages are installed from the package index of pip under the same names: no conda channel is used" in log
    assert "packages: tiny 0.5" in log


def test_p105_a_conda_package_that_cannot_be_solved_fails_the_build(
    client: CloudClient, foreign_registry: str, channel: str
) -> None:
    environment = Environment(
        name="unsolved", base_image=f"{foreign_registry}/base:1", conda_packages=("tiny=7",), conda_channels=(channel,)
    )
    client.create_environment(environment)
    record = client.build_image(ImageRequest(name="unsolved-image", environment="unsolved", platforms=("linux/arm64",)))
    with pytest.raises(OperationError, match="conda: Cannot solve the request because of: No candidates were found for tiny 7"):
        client.wait_for_image(record)
