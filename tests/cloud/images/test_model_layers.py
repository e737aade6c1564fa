"""The layers of models in an image: two versions of one package do not overwrite each other's files."""

from __future__ import annotations

import tarfile
from pathlib import Path

from cloud.images.build.layers import LayerStore
from cloud.images.build.model_layers import layers_of
from cloud.images.build.order import ModelPart
from edgewright.contracts.environments.images import ImageLayer
from edgewright.contracts.models.registration import Framework, SourceFile
from tests.support.small_packages import SmallPackage, make_package


def part(small: SmallPackage, store: LayerStore, version: int) -> ModelPart:
    """Put the blobs of a package into the store, as the registry has them, and return its model."""
    variant = small.package.variant("fp32")
    for blob in variant.blobs():
        store.receive(blob, [small.layout.read_blob(blob)])
    config = variant.manifest.config
    return ModelPart(
        name="digits",
        version=version,
        digest=small.package.digest,
        files=(SourceFile(path="variant.json", digest=config.digest, size=config.size),),
        layers=variant.manifest.layers,
        framework=Framework.CUSTOM,
        is_variant=True,
    )


def extracted(layers: list[ImageLayer], store: LayerStore, root: Path) -> Path:
    for layer in layers:
        with tarfile.open(store.path_of(layer.blob.digest)) as tar:
            tar.extractall(root, filter=lambda member, _: member)
    return root


def test_two_versions_of_a_package_have_their_own_files_in_one_image(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    store = LayerStore(tmp_path / "blobs", tmp_path / "cache")
    smalls = [make_package(tmp_path / name, "digits", graph=name.encode()) for name in ("first", "second")]
    models = tuple(part(small, store, number) for number, small in enumerate(smalls, 1))
    layers = list(layers_of(models, store, tmp_path))
    shared = [layer.digest for layer in models[0].layers]
    assert [layer.blob.digest for layer in layers[: len(shared)]] == shared
    root = extracted(layers, store, tmp_path / "root")
    folder = root / "var/azureml-app/azureml-models/digits"
    assert (folder / "1").readlink() == Path("/opt/edgewright/models/digits")
    assert (root / "opt/edgewright/models/digits/graph.onnx").read_bytes() == b"first"
    assert (folder / "2/graph.onnx").read_bytes() == b"second"
    assert sorted(path.name for path in (folder / "2").iterdir()) == ["graph.onnx", "variant.json"]
