"""Methods of `CloudClient` for images: request a build, follow it, list and show."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from edgewright.contracts.environments.definition import EnvironmentVersion
from edgewright.contracts.environments.images import (
    APPLICATION_FOLDER,
    LAYER_TYPE,
    BuildState,
    ImageRecord,
    ImageRequest,
    LogPiece,
)
from edgewright.contracts.environments.tars import Entry, HashingStream, write_tar
from edgewright.contracts.models.registration import files_below
from edgewright.contracts.names import check_name, parse_reference
from edgewright.contracts.oci import Descriptor
from edgewright.errors import BadInputError, NotFoundError, OperationError
from edgewright.registries.client import RegistryClient
from edgewright.registries.login import Credentials, stored_credentials
from edgewright.registries.references import parse_image_reference
from edgewright.sdk.calls import Calls
from edgewright.sdk.connection import TIMEOUT_S
from edgewright.sdk.image_context import save_context
from edgewright.sdk.image_push import push_image
from edgewright.sdk.transfer.uploads import Progress, has_blob, upload

_POLL_S = 25
_LEFT_OUT = frozenset(["__pycache__", ".git", ".edgewright", ".venv"])


class ImageCalls(Calls):
    """Build, list and show images."""

    def build_image(
        self, request: ImageRequest, *, script: Path | None = None, source_directory: Path | None = None
    ) -> ImageRecord:
        """Queue the build of the next version of an image and return its record.

        With an entry script, the script (or the whole `source_directory`, which must hold it) is pushed first; `script` may
        be relative to that directory.

        Raises:
            NotFoundError: the script, a model or the environment does not exist.
            BadInputError: the script is outside of the source directory.
        """
        if script is not None:
            files, name = _source_files(script, source_directory)
            source = self._push_source(request.name, files)
            request = _with_source(request, name, source)
        return self._send("POST", "/v1/images", ImageRecord, request)

    def build_environment(self, version: EnvironmentVersion) -> ImageRecord:
        """Queue the build of an image that holds an environment alone; it is called env- and the name in lower case."""
        request = ImageRequest(name=environment_image_name(version.name), environment=f"{version.name}:{version.version}")
        return self._send("POST", "/v1/images", ImageRecord, request)

    def images(self) -> tuple[ImageRecord, ...]:
        """Return every version of every image."""
        return self._get("/v1/images", tuple[ImageRecord, ...])

    def image_versions(self, name: str) -> tuple[ImageRecord, ...]:
        """Return the versions of an image, oldest first; raise `NotFoundError` with the nearest names."""
        check_name(name, "image")
        return self._get(f"/v1/images/{quote(name, safe='')}", tuple[ImageRecord, ...])

    def image(self, name: str, version: int | None = None) -> ImageRecord:
        """Return one version of an image, by default the newest."""
        versions = self.image_versions(name)
        for record in versions:
            if record.version == (version or versions[-1].version):
                return record
        raise NotFoundError(f"image {name} has no version {version}; its newest is {versions[-1].version}")

    def follow_build(self, record: ImageRecord) -> Iterator[str]:
        """Yield the log of a build in pieces until the build ends."""
        path, after = f"/v1/images/{record.name}/versions/{record.version}/log", 0
        while True:
            piece = self._get(path, LogPiece, timeout_s=TIMEOUT_S + _POLL_S, after=after, wait_s=_POLL_S)
            after = piece.next
            if piece.text:
                yield piece.text
            elif piece.state.is_final:
                return

    def wait_for_image(self, record: ImageRecord) -> ImageRecord:
        """Return the record of a build that has ended.

        Raises:
            OperationError: the build failed; the text is its reason.
        """
        for _ in self.follow_build(record):
            pass
        ended = self.image(record.name, record.version)
        if ended.state is not BuildState.SUCCEEDED:
            raise OperationError(f"image {ended} was not built: {ended.reason}")
        return ended

    def push_image(
        self,
        record: ImageRecord,
        target: str,
        *,
        credentials: Credentials | None = None,
        ca_file: Path | None = None,
        mount_from: str = "",
        on_progress: Progress = lambda _sent, _total: None,
    ) -> int:
        """Push an image to another registry, as HOST[:PORT]/NAME[:TAG], and return the bytes sent.

        Without credentials, those of `docker login` are used. Only blobs that the registry lacks are sent; those that its
        repository `mount_from` has are mounted from there, such as the layers of a package.
        """
        reference = parse_image_reference(target)
        stored = credentials or stored_credentials(reference.host)
        with RegistryClient(reference, stored, ca_file=ca_file, mount_from=mount_from) as registry:
            return push_image(self._connection, record, registry, on_progress=on_progress)

    def save_image_context(self, record: ImageRecord, folder: Path) -> Path:
        """Write a built image as a new folder for `docker build`; return the path of its Dockerfile."""
        return save_context(self._connection, record, folder)

    def image_location(self, record: ImageRecord) -> str:
        """Return the reference by which a container engine pulls an image."""
        return f"{urlsplit(self.context.url).netloc}/{record.name}:{record.version}"

    def _push_source(self, name: str, files: list[tuple[str, Path]]) -> Descriptor:
        """Push the layer of a source folder, unless the cloud has it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "source.tar"
            with path.open("wb") as stream:
                hashing = HashingStream(stream)
                write_tar(hashing, [Entry(path=f"{APPLICATION_FOLDER}/{place}", source=file) for place, file in files])
            layer = Descriptor(mediaType=LAYER_TYPE, digest=hashing.digest, size=hashing.size)
            if not has_blob(self._connection, name, layer):
                for _ in upload(self._connection, name, layer, path):
                    pass
        return layer


def _source_files(script: Path, source_directory: Path | None) -> tuple[list[tuple[str, Path]], str]:
    """Return the files of the source layer and the script's path among them."""
    if source_directory is None:
        if not script.is_file():
            raise NotFoundError(f"{script}: no such file; the entry script is a Python file with init() and run()")
        return [(script.name, script)], script.name
    if not source_directory.is_dir():
        raise NotFoundError(f"{source_directory}: no such folder")
    place = source_directory / script if not script.is_absolute() else script
    if not place.is_file() and script.is_file():
        place = script
    if not place.is_file():
        raise NotFoundError(f"{place}: no such file; the entry script must be in the source folder")
    if not place.resolve().is_relative_to(source_directory.resolve()):
        raise BadInputError(f"the entry script {script} must be in the source folder {source_directory}, but it is outside of it")
    files = [(name, path) for name, path in files_below(source_directory) if not _LEFT_OUT & set(Path(name).parts)]
    return files, place.resolve().relative_to(source_directory.resolve()).as_posix()


def _with_source(request: ImageRequest, script: str, source: Descriptor) -> ImageRequest:
    return ImageRequest(
        name=request.name,
        models=request.models,
        environment=request.environment,
        script=script,
        source=source,
        variant=request.variant,
        trust=request.trust,
    )


def environment_image_name(name: str) -> str:
    """Return the name of the image of an environment: env- and its name, as registries allow it."""
    parts = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"env-{parts}"[:64].rstrip("-")


def default_image_name(models: tuple[str, ...]) -> str:
    """Return the name of an image of models: that of the first model and '-image'."""
    return f"{parse_reference(models[0]).name}-image"
