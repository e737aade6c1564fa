"""The order that a build worker gets from the cloud, and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.environments.images import ImageLayer
from edgewright.contracts.models.registration import Framework, SourceFile
from edgewright.contracts.oci import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """A model of the image: its files in the registry, under their paths in the model's folder."""

    name: str
    version: int
    digest: str
    """Digest of the version's index."""
    files: tuple[SourceFile, ...]
    layers: tuple[Descriptor, ...] = ()
    """Layers of the package that are the image's as well; their files are not in `files`."""
    framework: Framework
    is_variant: bool
    """True for a variant of a package, False for registered source files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOrder:
    """Everything that a worker needs for one image; models and sources are blobs of the registry."""

    name: str
    version: int
    blobs: str
    """Folder of the registry's blobs."""
    cache: str
    """Folder of the cache of layers."""
    work: str
    """Empty folder for temporary files; removed afterwards."""
    environment: Environment
    environment_version: int
    """0: an environment that the cloud chose for the model's framework."""
    models: tuple[ModelPart, ...]
    script: str
    source: Descriptor | None
    trust: bool
    platforms: tuple[str, ...]
    """Platforms of the image; empty: this machine's."""
    known_layers: tuple[str, ...]
    """Digests of the layers of earlier images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """The answer: all documents and layers are blobs of the registry now."""

    index: Descriptor
    manifests: tuple[Descriptor, ...]
    """One manifest per platform."""
    configs: tuple[Descriptor, ...]
    bill: Descriptor
    """The manifest that attaches the bill of materials to the index."""
    layers: tuple[ImageLayer, ...]
    new_bytes: int
    labels: dict[str, str]
