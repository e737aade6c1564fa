"""The base layers of an image from a registry: the manifest of the image's platform, its config, its layers.

Layers keep their digests. The Python of the base must have the version of this machine's, whose compiled packages are copied.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud.images.build.layers import LayerStore
from cloud.images.build.machine import PYTHON_VERSION, skeleton
from edgewright.contracts.environments.images import COMPRESSED_LAYER_TYPE, LAYER_TYPE, ImageLayer, LayerPart
from edgewright.contracts.oci import Descriptor
from edgewright.errors import BadInputError, NotFoundError, OperationError
from edgewright.registries.client import RegistryClient
from edgewright.registries.login import stored_credentials
from edgewright.registries.references import parse_image_reference

Log = Callable[[str], None]
_TYPES = {
    LAYER_TYPE: LAYER_TYPE,
    COMPRESSED_LAYER_TYPE: COMPRESSED_LAYER_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": COMPRESSED_LAYER_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TYPE,
}


@dataclass(frozen=True, slots=True)
class Base:
    """The layers below the server's, and the variables of their image."""

    layers: tuple[ImageLayer, ...]
    variables: dict[str, str]


def pulled_base(store: LayerStore, reference: str, platform: str, log: Log) -> Base:
    """Return the layers of an image in a registry; layers that are stored are not pulled again.

    Raises:
        NotFoundError: the registry has no such image, or none for `platform`, such as linux/arm64.
        BadInputError: its Python has another version than this machine's.
        DeniedError: it needs a login.
    """
    image = parse_image_reference(reference)
    log(f"base image {image} for {platform}")
    with RegistryClient(image, stored_credentials(image.host)) as registry:
        document = _manifest(registry, reference, platform)
        config = json.loads(registry.read_blob(document["config"]["digest"]))
        _check_platform(config, reference, platform)
        check_python(config, reference)
        diff_ids = config["rootfs"]["diff_ids"]
        layers = [
            _layer(store, registry, layer, diff_id, f"{reference} layer {number}")
            for number, (layer, diff_id) in enumerate(zip(document["layers"], diff_ids, strict=True), 1)
        ]
    folders = store.write(skeleton(), LayerPart.BASE, "folders of the service", compressed=False)
    return Base((*layers, folders), variables_of(config))


def variables_of(config: dict[str, Any]) -> dict[str, str]:
    """Return the variables in the config of an image."""
    pairs = [text.partition("=") for text in config.get("config", {}).get("Env") or ()]
    return {name: value for name, _, value in pairs}


def _manifest(registry: RegistryClient, reference: str, wanted: str) -> dict[str, Any]:
    image = registry.image
    try:
        raw, _ = registry.manifest(image.digest or image.tag)
    except NotFoundError as error:
        raise NotFoundError(f"the base image {reference} must exist, but {error}") from error
    document: dict[str, Any] = json.loads(raw)
    if "manifests" in document:
        for entry in document["manifests"]:
            platform = entry.get("platform", {})
            if f"{platform.get('os')}/{platform.get('architecture')}" == wanted:
                raw, _ = registry.manifest(entry["digest"])
                manifest: dict[str, Any] = json.loads(raw)
                return manifest
        raise NotFoundError(f"the base image {reference} must have a manifest for {wanted}, but it has none")
    return document


def _check_platform(config: dict[str, Any], reference: str, platform: str) -> None:
    """Raise `NotFoundError` for a base image without an index that is of another platform."""
    actual = f"{config.get('os', 'linux')}/{config.get('architecture', platform.partition('/')[2])}"
    if actual != platform:
        raise NotFoundError(f"the base image {reference} must be for {platform}, but it is for {actual}")


def check_python(config: dict[str, Any], reference: str) -> None:
    """Raise `BadInputError` if the config of a base image names another version of Python than this machine's."""
    version = variables_of(config).get("PYTHON_VERSION", "")
    if version and not f"{version}.".startswith(f"{PYTHON_VERSION}."):
        raise BadInputError(
            f"the base image {reference} must have Python {PYTHON_VERSION}, the version of the building machine, not {version}: "
            "choose another base image"
        )


def _layer(store: LayerStore, registry: RegistryClient, layer: dict[str, Any], diff_id: str, title: str) -> ImageLayer:
    media_type = _TYPES.get(layer["mediaType"])
    if media_type is None:
        raise OperationError(f"{title} must be a tar or a tar with gzip, not {layer['mediaType']}")
    key = f"pulled {layer['digest']} {diff_id}"
    blob = Descriptor(mediaType=media_type, digest=layer["digest"], size=layer["size"])

    def pull() -> ImageLayer:
        store.log(f"pull {title} size_bytes={blob.size}")
        store.receive(blob, registry.pieces(blob.digest))
        actual, size = _unpacked(store.path_of(blob.digest), is_compressed=media_type == COMPRESSED_LAYER_TYPE)
        if actual != diff_id:
            raise OperationError(f"{title} must unpack to {diff_id}, but unpacks to {actual}: the image is damaged")
        return ImageLayer(part=LayerPart.BASE, title=title, blob=blob, diff_id=diff_id, unpacked_bytes=size)

    return store.once(key, LayerPart.BASE, pull)


def _unpacked(path: Path, *, is_compressed: bool) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    with gzip.open(path) if is_compressed else path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            hasher.update(piece)
            size += len(piece)
    return f"sha256:{hasher.hexdigest()}", size
