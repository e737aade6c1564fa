"""The build worker: `python -m cloud.images.build.worker` reads a `BuildOrder` and answers with a `BuiltImage`.

    base → server → conda → packages → layers of the models → script → config, manifest, index

Its log goes to standard error. It writes blobs only; the cloud makes them an image afterwards, in one transaction.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cloud.images.build.conda import conda_layer, reachable_channels
from cloud.images.build.describe import PlatformImage, describe_image
from cloud.images.build.dockerfile import built_base
from cloud.images.build.installed import server_layer, server_pins
from cloud.images.build.layers import LayerStore
from cloud.images.build.machine import PYTHON_VERSION, base_layer, own_platform
from cloud.images.build.model_layers import layers_of
from cloud.images.build.order import BuildOrder, BuiltImage
from cloud.images.build.packages import Installer, conda_specs_of, foreign_server_layer, packages_layer, requirements_of
from cloud.images.build.pulled import Base, pulled_base
from edgewright.contracts import wire
from edgewright.contracts.environments.images import LAYER_TYPE, ImageLayer, LayerPart
from edgewright.errors import BadInputError
from edgewright.worker_process import exit_with_parent, serve


def build(order: BuildOrder) -> BuiltImage:
    """Make the layers and documents of an image."""
    started_s = time.monotonic()
    log(f"build image={order.name}:{order.version} environment={order.environment.name} models={len(order.models)}")
    _check_python(order)
    store = LayerStore(Path(order.blobs), Path(order.cache), log)
    work = Path(order.work)
    above = [*layers_of(order.models, store, work), *([_script_layer(order)] if order.source is not None else [])]
    images = tuple(_platform_image(order, store, platform, above) for platform in order.platforms or (own_platform(),))
    for layer in {layer.blob.digest: layer for image in images for layer in image.layers}.values():
        state = "known" if layer.blob.digest in order.known_layers else "new"
        log(f"layer part={layer.part} size_bytes={layer.blob.size} {state}: {layer.title}")
    built = describe_image(order, store, images)
    log(f"built index={built.index.digest} new_bytes={built.new_bytes} took_ms={(time.monotonic() - started_s) * 1000:.0f}")
    return built


def log(text: str) -> None:
    """Write a line of the build's log."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201  standard error is the log


def _platform_image(order: BuildOrder, store: LayerStore, platform: str, above: list[ImageLayer]) -> PlatformImage:
    """Return the image for one platform; `above` are the layers that all platforms share."""
    base, work = _base(order, store, platform), Path(order.work)
    installer = Installer(work, server_pins(), log, platform)
    server = server_layer(store) if platform == own_platform() else foreign_server_layer(store, installer)
    environment, layers = order.environment, [*base.layers, server]
    channels = reachable_channels(environment, log)
    specs = conda_specs_of(environment, log) if channels else ()
    if specs:
        layers.append(conda_layer(store, specs, channels, platform, work, Path(order.cache) / "conda"))
    requirements = requirements_of(environment, log, has_channels=bool(channels))
    packages = packages_layer(store, requirements, environment.pip_index_url, installer)
    layers = [*layers, *([packages] if packages is not None else []), *above]
    return PlatformImage(platform=platform, layers=tuple(layers), variables=base.variables)


def _base(order: BuildOrder, store: LayerStore, platform: str) -> Base:
    """Return the layers of the environment's base image, or of this machine's own Python."""
    if order.environment.dockerfile:
        return built_base(store, order.environment.dockerfile, Path(order.work), platform, log)
    if order.environment.base_image:
        return pulled_base(store, order.environment.base_image, platform, log)
    if platform != own_platform():
        raise BadInputError(
            f"an image for {platform} needs an environment with a base image, because the building machine's own Python is for "
            f"{own_platform()}: give --base-image to 'edgewright environments create'"
        )
    return Base((base_layer(store),), {})


def _script_layer(order: BuildOrder) -> ImageLayer:
    """Return the layer that the client pushed: an uncompressed tar, so its digest is its diff_id."""
    assert order.source is not None
    if order.source.mediaType != LAYER_TYPE:
        raise BadInputError(f"the source folder must be a layer of type {LAYER_TYPE}, not {order.source.mediaType}")
    return ImageLayer(
        part=LayerPart.SCRIPT,
        title=order.script,
        blob=order.source,
        diff_id=order.source.digest,
        unpacked_bytes=order.source.size,
    )


def _check_python(order: BuildOrder) -> None:
    version = order.environment.python_version
    if version and version != PYTHON_VERSION and not version.startswith(f"{PYTHON_VERSION}."):
        raise BadInputError(
            f"environment {order.environment.name} needs Python {version}, but the building machine has {PYTHON_VERSION}: "
            f"set python_version to {PYTHON_VERSION}, or name a base image with Python {version}"
        )


def _handle(raw: bytes) -> bytes:
    exit_with_parent(gracefully=False)  # a killed cloud queues the build again at its next start
    return wire.encode(build(wire.decode(raw, BuildOrder, what="the build order")))


if __name__ == "__main__":
    serve(_handle)
