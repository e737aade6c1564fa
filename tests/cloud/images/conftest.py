"""Images for processors that this machine lacks: wheels, base images and a cloud, all of them small and on this machine."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud.images.build.installed import server_pins
from cloud.images.build.layers import LayerStore
from edgewright.contracts import wire
from edgewright.contracts.environments.images import IMAGE_CONFIG_TYPE, LayerPart
from edgewright.contracts.environments.tars import Entry
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, Manifest, Platform, encode_document
from edgewright.registries.client import RegistryClient
from edgewright.registries.references import parse_image_reference
from tests.support.docker_registry import docker_registry, free_port
from tests.support.running_cloud import RunningCloud, running
from tests.support.wheels import wheel

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
