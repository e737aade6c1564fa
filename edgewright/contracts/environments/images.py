"""Images: the request to build one, its layers, and the record of the build.

An image is an OCI image index with one manifest per architecture. Its layers, from the bottom: base, server (edgewright and its
dependencies), conda and packages (those of the environment), one per file of each model, script. Model and script layers are
uncompressed tars, so that their digest is their diff_id; a changed script changes one small layer.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

from edgewright.contracts.environments.definition import parse_environment_reference
from edgewright.contracts.models.registration import check_relative
from edgewright.contracts.names import check_name, parse_reference
from edgewright.contracts.oci import Descriptor
from edgewright.errors import BadInputError

APPLICATION_FOLDER = "var/azureml-app"
"""Working directory in the image, without the leading slash: the script's folder."""
MODELS_FOLDER = f"{APPLICATION_FOLDER}/azureml-models"
"""Models in the image as NAME/VERSION/FILES, the layout of Azure ML."""
KEYS_FILE = "/run/edgewright/keys.json"
"""Keys of the service in the container; mount a folder with the file, or a writable one in which it is created."""
PORT = 8000
USER = 65534
"""User and group id of the service in the container."""
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
COMPRESSED_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
IMAGE_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
BILL_TYPE = "application/vnd.cyclonedx+json"
"""Type of the bill of materials that is attached to an image."""
MAX_MODELS = 50
PLATFORMS = {"linux/amd64": "x86_64", "linux/arm64": "aarch64", "linux/ppc64le": "ppc64le", "linux/s390x": "s390x"}
"""Platforms of images, and the machine's name in the tags of their wheels (PEP 600)."""


class BuildState(enum.StrEnum):
    """State of a build, in Azure's words."""

    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def is_final(self) -> bool:
        """True if the state does not change any more."""
        return self in (BuildState.SUCCEEDED, BuildState.FAILED)


class LayerPart(enum.StrEnum):
    """Content of a layer."""

    BASE = "base"
    SERVER = "server"
    CONDA = "conda"
    PACKAGES = "packages"
    MODEL = "model"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """Request to build the next version of an image: POST /v1/images.

    Without a script, a model is served as it is (no code). Without a model and a script, the image holds the environment alone.
    """

    name: str
    models: tuple[str, ...] = ()
    """References of registered models: NAME, NAME:VERSION or NAME@ALIAS."""
    environment: str = ""
    """NAME or NAME:VERSION; empty: the packages that the model's framework needs."""
    script: str = ""
    """Path of the entry script below the source folder."""
    source: Descriptor | None = None
    """The pushed layer with the source folder."""
    variant: str = ""
    """Variant of a package to serve; empty: its fp32 variant, or the first."""
    trust: bool = False
    """Open pickles of no-code models in the container."""
    platforms: tuple[str, ...] = ()
    """Platforms such as linux/arm64; empty: that of the building machine. Others than that need a base image of a registry."""

    def __post_init__(self) -> None:
        check_name(self.name, "image")
        if len(self.models) > MAX_MODELS:
            raise BadInputError(f"an image must hold at most {MAX_MODELS} models, not {len(self.models)}")
        for model in self.models:
            parse_reference(model)
        if self.environment:
            parse_environment_reference(self.environment)
        for platform in self.platforms:
            if platform not in PLATFORMS or self.platforms.count(platform) > 1:
                raise BadInputError(f"platforms must be different ones of {', '.join(PLATFORMS)}, not {platform[:64]!r}")
        if bool(self.script) != (self.source is not None):
            raise BadInputError("an entry script needs the pushed layer of its source folder, and the layer a script: send both")
        if self.script:
            check_relative(self.script)
        elif len(self.models) > 1:
            raise BadInputError(f"an image of {len(self.models)} models needs an entry script, which chooses between them")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLayer:
    """One layer of an image."""

    part: LayerPart
    title: str
    """Content in a few words, such as scikit-learn 1.5.2 or the path of a model's file."""
    blob: Descriptor
    diff_id: str
    """Digest of the uncompressed tar."""
    unpacked_bytes: int
    platform: str = ""
    """Platform of the manifest that has the layer; empty in images of one platform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One version of an image and its build."""

    name: str
    version: int
    request: ImageRequest
    state: BuildState
    reason: str = ""
    """Cause of a failure on one line; the log has the details."""
    created_at: datetime
    changed_at: datetime
    index: Descriptor | None = None
    """The image index, in the repository `name`, once the build has succeeded."""
    bill: Descriptor | None = None
    """The manifest that attaches the bill of materials to the index."""
    layers: tuple[ImageLayer, ...] = ()
    new_bytes: int = 0
    """Bytes of the layers that the registry did not hold before."""
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes that a pull transfers at most, for the largest platform."""
        return max(sum(layer.blob.size for layer in self.layers_of(each)) for each in self.platforms)

    @property
    def unpacked_bytes(self) -> int:
        """Bytes on the disk of a machine that runs it, for the largest platform."""
        return max(sum(layer.unpacked_bytes for layer in self.layers_of(each)) for each in self.platforms)

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of its layers; one empty name if the image has one platform."""
        return tuple(dict.fromkeys(layer.platform for layer in self.layers)) or ("",)

    def layers_of(self, platform: str) -> tuple[ImageLayer, ...]:
        """Return the layers of one platform, from the bottom."""
        return tuple(layer for layer in self.layers if layer.platform == platform)

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPiece:
    """A piece of a build's log: GET /v1/images/{image}/versions/{version}/log."""

    text: str
    next: int
    """Offset of the next piece, in bytes."""
    state: BuildState
