"""The documents of an image: config (what to run, as whom, labels), manifest and index.

Sources: https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md and its annotations.md. `Healthcheck` is docker's
addition to the config (https://github.com/moby/docker-image-spec).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from cloud.images.build.bill import attach_bill
from cloud.images.build.conda import CONDA_FOLDER, CONDA_PACKAGES
from cloud.images.build.installed import SERVER_FOLDER
from cloud.images.build.layers import LayerStore
from cloud.images.build.order import BuildOrder, BuiltImage
from cloud.images.build.packages import PACKAGES_FOLDER
from edgewright import __version__
from edgewright.contracts.environments.images import (
    APPLICATION_FOLDER,
    IMAGE_CONFIG_TYPE,
    KEYS_FILE,
    MODELS_FOLDER,
    PORT,
    USER,
    ImageLayer,
    LayerPart,
)
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Index, Manifest, Platform, encode_document

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NANOSECONDS = 1_000_000_000
_HEALTH = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/health/live', timeout=5)"
_START_PERIOD_S = 310
"""Time for `init` before failed health checks count: Azure's initial delay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformImage:
    """The layers of an image for one platform, and the variables of its base image."""

    platform: str
    layers: tuple[ImageLayer, ...]
    variables: dict[str, str]


def describe_image(order: BuildOrder, store: LayerStore, images: tuple[PlatformImage, ...]) -> BuiltImage:
    """Write config and manifest of every platform and the index of them, and return the image."""
    has_conda = any(layer.part is LayerPart.CONDA for image in images for layer in image.layers)
    labels = labels_of(order, has_conda=has_conda)
    manifests, configs = [], []
    for image in images:
        config = store.put(_config(order, image, labels), IMAGE_CONFIG_TYPE)
        document = Manifest(config=config, layers=tuple(layer.blob for layer in image.layers), annotations=labels)
        manifest = store.put(encode_document(document), MANIFEST_TYPE)
        platform = Platform(architecture=image.platform.partition("/")[2], os="linux")
        manifests.append(replace(manifest, platform=platform))
        configs.append(config)
    index = store.put(encode_document(Index(manifests=tuple(manifests), annotations=labels)), INDEX_TYPE)
    layers = tuple(
        replace(layer, platform=image.platform if len(images) > 1 else "") for image in images for layer in image.layers
    )
    new = {layer.blob.digest: layer.blob.size for layer in layers if layer.blob.digest not in order.known_layers}
    return BuiltImage(
        index=index,
        manifests=tuple(manifests),
        configs=tuple(configs),
        bill=attach_bill(order, store, layers, index),
        layers=layers,
        new_bytes=sum(new.values()),
        labels=labels,
    )


def labels_of(order: BuildOrder, *, has_conda: bool) -> dict[str, str]:
    """Return the provenance of an image as labels."""
    labels = {
        "org.opencontainers.image.title": order.name,
        "dev.edgewright.version": __version__,
        "dev.edgewright.environment": f"{order.environment.name}:{order.environment_version}",
        "dev.edgewright.environment.digest": order.environment.digest,
    }
    if order.models:
        labels["dev.edgewright.models"] = " ".join(f"{each.name}:{each.version}@{each.digest}" for each in order.models)
    if order.source is not None:
        labels["dev.edgewright.script"] = f"{order.script}@{order.source.digest}"
    if order.environment.conda_packages:
        channels = " ".join(order.environment.conda_channels)
        labels["dev.edgewright.conda"] = f"installed from {channels}" if has_conda else "installed by pip"
    return labels


def _config(order: BuildOrder, image: PlatformImage, labels: dict[str, str]) -> bytes:
    document = {
        "architecture": image.platform.partition("/")[2],
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "Env": _variables(order, image),
            "WorkingDir": f"/{APPLICATION_FOLDER}",
            "ExposedPorts": {f"{PORT}/tcp": {}},
            "Labels": labels,
            "StopSignal": "SIGTERM",
            **_process(order),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]},
        "history": [{"created_by": f"edgewright: {layer.part}: {layer.title}"[:500]} for layer in image.layers],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _process(order: BuildOrder) -> dict[str, object]:
    """Return entry point, arguments and health check; an image of the environment alone starts Python."""
    target = _target(order)
    if not target:
        return {"Entrypoint": ["python3"]}
    check = {
        "Test": ["CMD", "python3", "-I", "-S", "-c", _HEALTH],
        "Interval": 30 * _NANOSECONDS,
        "Timeout": 10 * _NANOSECONDS,
        "StartPeriod": _START_PERIOD_S * _NANOSECONDS,
        "Retries": 3,
    }
    serve = ["python3", "-m", "edgewright", "serve", *target, "--host", "0.0.0.0", "--port", str(PORT), "--plain-http"]  # noqa: S104  the engine publishes the port
    return {"Entrypoint": serve, "Cmd": ["--keys", KEYS_FILE], "Healthcheck": check}


def _target(order: BuildOrder) -> list[str]:
    folders = [f"/{MODELS_FOLDER}/{model.name}/{model.version}" for model in order.models]
    name = ["--name", order.models[0].name if order.models else order.name]
    if order.source is not None:
        folder = folders[0] if len(folders) == 1 else f"/{MODELS_FOLDER}"
        return [f"/{APPLICATION_FOLDER}/{order.script}", *name, *(["--model-dir", folder] if folders else [])]
    if not order.models:
        return []
    [model] = order.models
    place = folders[0] if model.is_variant or len(model.files) > 1 else f"{folders[0]}/{model.files[0].path}"
    return [place, *name, *(["--trust"] if order.trust else [])]


def _variables(order: BuildOrder, image: PlatformImage) -> list[str]:
    variables = {"PATH": _PATH, **image.variables, "PYTHONUNBUFFERED": "1", "HOME": "/tmp"}  # noqa: S108  in the container
    folders = [PACKAGES_FOLDER, SERVER_FOLDER]
    if any(layer.part is LayerPart.CONDA for layer in image.layers):
        folders.insert(1, CONDA_PACKAGES)
        variables["PATH"] += f":/{CONDA_FOLDER}/bin"
    path = ":".join(f"/{folder}" for folder in folders)
    variables |= order.environment.variables
    own = variables.get("PYTHONPATH")
    variables["PYTHONPATH"] = f"{path}:{own}" if own else path
    return [f"{name}={value}" for name, value in sorted(variables.items())]
