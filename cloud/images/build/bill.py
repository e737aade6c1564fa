"""The bill of materials of an image in CycloneDX 1.5: Python, its packages, the models; attached to the index as a referrer.

Source: https://cyclonedx.org/docs/1.5/json/. It holds no time and no random number, so that the same image has the same bill.
"""

from __future__ import annotations

import platform

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot5
from packageurl import PackageURL

from cloud.images.build.installed import server_pins
from cloud.images.build.layers import LayerStore
from cloud.images.build.order import BuildOrder, ModelPart
from edgewright import __version__
from edgewright.contracts.environments.images import BILL_TYPE, ImageLayer, LayerPart
from edgewright.contracts.oci import EMPTY_BLOB, EMPTY_TYPE, MANIFEST_TYPE, Descriptor, Manifest, descriptor_of, encode_document


def attach_bill(order: BuildOrder, store: LayerStore, layers: tuple[ImageLayer, ...], index: Descriptor) -> Descriptor:
    """Write the bill and the manifest that attaches it to the index, and return the manifest's descriptor."""
    bill = store.put(_document(order, layers), BILL_TYPE)
    store.put(EMPTY_BLOB, EMPTY_TYPE)
    manifest = Manifest(config=descriptor_of(EMPTY_BLOB, EMPTY_TYPE), layers=(bill,), artifactType=BILL_TYPE, subject=index)
    return store.put(encode_document(manifest), MANIFEST_TYPE)


def _document(order: BuildOrder, layers: tuple[ImageLayer, ...]) -> bytes:
    packages = {"edgewright": __version__} | server_pins() | _named(layers, LayerPart.PACKAGES)
    bom = Bom(components=[_package("pypi", name, version) for name, version in packages.items()])
    bom.components.update(_package("conda", name, version) for name, version in _named(layers, LayerPart.CONDA).items())
    bom.serial_number = bom.metadata.timestamp = None  # type: ignore[assignment]  # both are optional in the format
    bom.metadata.component = Component(name=order.name, type=ComponentType.CONTAINER, bom_ref=f"image:{order.name}")
    bom.components.update(map(_model, order.models))
    if not order.environment.base_image and not order.environment.dockerfile:
        version = platform.python_version()
        bom.components.add(Component(name="python", version=version, type=ComponentType.PLATFORM, bom_ref=f"python:{version}"))
    bom.register_dependency(bom.metadata.component, bom.components)
    return JsonV1Dot5(bom).output_as_string().encode()


def _named(layers: tuple[ImageLayer, ...], part: LayerPart) -> dict[str, str]:
    """Return the packages in the titles of layers, with their versions."""
    texts = (text for layer in layers if layer.part is part for text in layer.title.split(", "))
    return {name: version for name, _, version in (text.partition(" ") for text in texts) if version[:1].isdigit()}


def _package(kind: str, name: str, version: str) -> Component:
    purl = PackageURL(kind, None, name, version)
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl))


def _model(model: ModelPart) -> Component:
    digest = HashType(alg=HashAlgorithm.SHA_256, content=model.digest.removeprefix("sha256:"))
    version = str(model.version)
    kind = ComponentType.MACHINE_LEARNING_MODEL
    return Component(name=model.name, version=version, type=kind, hashes=[digest], bom_ref=f"model:{model.name}:{version}")
