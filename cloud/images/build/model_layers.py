"""The layers of a model in an image.

    layers of its package     taken as they are: the same digests, neither written nor moved a second time
    other files               a tar each around the bytes that the registry holds: variant.json, registered source files
    the link                  from azureml-models/NAME/VERSION to the folder of the package's layers

Two versions of one package have their files in the same place of those layers. In an image of both, the second version gets
layers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cloud.images.build.layers import LayerStore
from cloud.images.build.order import ModelPart
from edgewright.contracts.environments.file_layers import MODEL_FILES, copy_file, file_of
from edgewright.contracts.environments.images import MODELS_FOLDER, ImageLayer, LayerPart
from edgewright.contracts.environments.tars import Entry
from edgewright.contracts.models.registration import SourceFile
from edgewright.contracts.oci import TITLE, Descriptor
from edgewright.errors import OperationError


def layers_of(models: tuple[ModelPart, ...], store: LayerStore, work: Path) -> Iterator[ImageLayer]:
    """Yield the layers of every model of an image; `work` is a folder for temporary files."""
    shared: set[str] = set()
    for model in models:
        if model.layers and model.name not in shared:
            shared.add(model.name)
            yield from (_shared(store, model, layer) for layer in model.layers)
            yield from (_own(store, model, file, f"{MODEL_FILES}/{model.name}") for file in model.files)
            yield _link(store, model)
        else:
            folder = f"{MODELS_FOLDER}/{model.name}/{model.version}"
            yield from (_copied(store, model, layer, folder, work) for layer in model.layers)
            yield from (_own(store, model, file, folder) for file in model.files)


def _shared(store: LayerStore, model: ModelPart, layer: Descriptor) -> ImageLayer:
    _require(store, model, layer.digest)
    blob = Descriptor(mediaType=layer.mediaType, digest=layer.digest, size=layer.size)
    return ImageLayer(
        part=LayerPart.MODEL, title=_title(model, _name(layer)), blob=blob, diff_id=layer.digest, unpacked_bytes=layer.size
    )


def _own(store: LayerStore, model: ModelPart, file: SourceFile, folder: str) -> ImageLayer:
    """Return the layer of one file: a tar around the bytes that the registry holds."""
    place = f"{folder}/{file.path}"
    key = f"model {place} {file.digest}"
    entry = Entry(path=place, source=_require(store, model, file.digest))
    title = _title(model, file.path)
    return store.once(key, LayerPart.MODEL, lambda: store.write([entry], LayerPart.MODEL, title, compressed=False))


def _copied(store: LayerStore, model: ModelPart, layer: Descriptor, folder: str, work: Path) -> ImageLayer:
    """Return a layer with the file of a shared layer in another place."""
    path = work / file_of(layer).digest.removeprefix("sha256:")
    with path.open("wb") as stream:
        copy_file(_require(store, model, layer.digest), file_of(layer), stream)
    entry = Entry(path=f"{folder}/{_name(layer)}", source=path)
    written = store.write([entry], LayerPart.MODEL, _title(model, _name(layer)), compressed=False)
    path.unlink()
    return written


def _link(store: LayerStore, model: ModelPart) -> ImageLayer:
    link = Entry(path=f"{MODELS_FOLDER}/{model.name}/{model.version}", source=f"/{MODEL_FILES}/{model.name}")
    return store.write([link], LayerPart.MODEL, _title(model, "link"), compressed=False)


def _require(store: LayerStore, model: ModelPart, digest: str) -> Path:
    path = store.path_of(digest)
    if not path.is_file():
        raise OperationError(f"{model.name}:{model.version} needs the blob {digest}, which the registry lost: publish it again")
    return path


def _name(layer: Descriptor) -> str:
    return layer.annotations.get(TITLE, layer.digest).removesuffix(".tar")


def _title(model: ModelPart, name: str) -> str:
    return f"{model.name}:{model.version} {name}"
