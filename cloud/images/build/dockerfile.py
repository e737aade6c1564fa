"""The base layers of an environment with a Dockerfile: a docker engine on this machine builds it, and its layers are taken over.

`docker save` writes a tar with one uncompressed tar per layer and manifest.json
(https://github.com/moby/docker-image-spec/blob/main/v1.2.md).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from cloud.images.build.layers import LayerStore
from cloud.images.build.machine import own_platform, skeleton
from cloud.images.build.pulled import Base, check_python, variables_of
from edgewright.contracts.environments.images import LAYER_TYPE, ImageLayer, LayerPart
from edgewright.contracts.oci import Descriptor
from edgewright.errors import BadInputError, OperationError, UnreachableError

Log = Callable[[str], None]


def built_base(store: LayerStore, dockerfile: str, work: Path, platform: str, log: Log) -> Base:
    """Build a Dockerfile without a context folder and return its layers; another platform than this machine's needs buildx.

    Raises:
        UnreachableError: this machine has no docker engine.
        BadInputError: the engine cannot build it; the text is the engine's own.
    """
    image = _build(dockerfile, work, platform, log)
    saved = work / "base.tar"
    try:
        _docker("save", "--output", str(saved), image)
    finally:
        _docker("image", "rm", "--no-prune", image, check=False)
    with tarfile.open(saved) as tar:
        [description] = json.loads(_member(tar, "manifest.json").read())
        config: dict[str, Any] = json.loads(_member(tar, description["Config"]).read())
        check_python(config, "of the Dockerfile")
        layers = [
            _layer(store, tar, name, diff_id, f"Dockerfile layer {number}")
            for number, (name, diff_id) in enumerate(zip(description["Layers"], config["rootfs"]["diff_ids"], strict=True), 1)
        ]
    saved.unlink()
    folders = store.write(skeleton(), LayerPart.BASE, "folders of the service", compressed=False)
    return Base((*layers, folders), variables_of(config))


def _build(dockerfile: str, work: Path, platform: str, log: Log) -> str:
    if shutil.which("docker") is None or _docker("version", check=False).returncode != 0:
        raise UnreachableError(
            "an environment with a Dockerfile needs a docker engine on the building machine, which does not answer: start it, "
            "set DOCKER_HOST, or describe the environment by a base image and packages"
        )
    context, tag = work / "context", f"edgewright-base:{work.stat().st_ino}"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    command = ["build"]
    if platform != own_platform():
        if _docker("buildx", "version", check=False).returncode != 0:
            raise UnreachableError(
                f"a Dockerfile for {platform} needs docker buildx on the building machine, which has none: install it, or "
                "describe the environment by a base image and packages"
            )
        command = ["buildx", "build", "--load", "--platform", platform]
    log(f"docker {' '.join(command)}")
    finished = _docker(*command, "--tag", tag, str(context), check=False)
    for line in finished.stdout.splitlines():
        log(line)
    if finished.returncode != 0:
        lines = [line for line in finished.stdout.splitlines() if line.strip()]
        raise BadInputError(f"docker build: {lines[-1] if lines else 'failed without a message'}")
    return tag


def _docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = ["docker", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check and finished.returncode != 0:
        raise OperationError(f"docker {arguments[0]}: {' '.join(finished.stdout.split())[-300:]}")
    return finished


def _layer(store: LayerStore, tar: tarfile.TarFile, name: str, diff_id: str, title: str) -> ImageLayer:
    size = tar.getmember(name).size
    blob = Descriptor(mediaType=LAYER_TYPE, digest=diff_id, size=size)
    with _member(tar, name) as stream:
        store.receive(blob, _pieces(stream))
    return ImageLayer(part=LayerPart.BASE, title=title, blob=blob, diff_id=diff_id, unpacked_bytes=size)


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = tar.extractfile(name)
    if stream is None:
        raise OperationError(f"docker save must write {name}, but it is not in the tar")
    return stream


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(1 << 20):
        yield piece
