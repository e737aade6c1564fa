"""The bill of materials of an image in CycloneDX 1.5: Python, its packages, the models; attached to the index as a referrer.

Source: https://cyclonedx.org/docs/1.5/json/. It holds no time and no random number, so that the same image has the same bill.
"""

from __future__ import annotations

import json
import platform
from typing import Any

from cloud.images.build.installed import server_pins
from cloud.images.build.layers import LayerStore
from cloud.images.build.order import BuildOrder, ModelPart
from edgewright import __version__
from edgewright.contracts.environments.images import BILL_TYPE, ImageLayer, LayerPart
from edgewright.contracts.oci import EMPTY_BLOB, EMPTY_TYPE, MANIFEST_TYPE, Descriptor, Manifest, descriptor_of, encode_document


def attach_bill(order: BuildOrder, store: LayerStore, layers: tuple[ImageLayer, ...], index: Descriptor) -> Descriptor:
    """Write the bill and the manifest that attaches it to the index, and return the manifest's descriptor."""
    raw = json.dumps(_document(order, layers), sort_keys=True, separators=(",", ":")).encode()
    bill = store.put(raw, BILL_TYPE)
    store.put(EMPTY_BLOB, EMPTY_TYPE)
    manifest = Manifest(config=descriptor_of(EMPTY_BLOB, EMPTY_TYPE), layers=(bill,), artifactType=BILL_TYPE, subject=index)
    return store.put(encode_document(manifest), MANIFEST_TYPE)


def _document(order: BuildOrder, layers: tuple[ImageLayer, ...]) -> dict[str, Any]:
    packages = {"edgewright": __version__} | server_pins()
    for layer in layers:
        if layer.part is LayerPart.PACKAGES:
            packages |= dict(text.split(" ", 1) for text in layer.title.split(", ") if " " in text)
    components = [_package(name, version) for name, version in sorted(packages.items())]
    if not order.environment.base_image and not order.environment.dockerfile:
        components.insert(0, {"type": "platform", "name": "python", "version": platform.python_version()})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": order.name}},
        "components": components + [_model(model) for model in order.models],
    }


def _package(name: str, version: str) -> dict[str, Any]:
    return {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}


def _model(model: ModelPart) -> dict[str, Any]:
    content = model.digest.removeprefix("sha256:")
    return {
        "type": "machine-learning-model",
        "name": model.name,
        "version": str(model.version),
        "hashes": [{"alg": "SHA-256", "content": content}],
    }
