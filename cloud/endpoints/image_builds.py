"""The image of an endpoint in a container: the cloud builds it from the models, the script and the environment of a deployment.

    ENDPOINT-endpoint    the name of the image; each deployment with other content is its next version

A deployment whose content was built before takes that image. A build that failed fails the deployment; the next one builds again.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from functools import partial

from sqlalchemy import Connection

from cloud.endpoints.rules import EndpointImage, ImageState
from cloud.endpoints.store import StoredEndpoint
from cloud.images import requests, store
from cloud.registry.blobs import BlobStore
from edgewright.contracts.endpoints import FILES_REPOSITORY, EndpointTarget
from edgewright.contracts.environments.images import APPLICATION_FOLDER, LAYER_TYPE, BuildState, ImageRecord, ImageRequest
from edgewright.contracts.environments.tars import Entry, HashingStream, write_tar
from edgewright.contracts.oci import Descriptor
from edgewright.errors import NotFoundError

_PIECE_BYTES = 1 << 20
_STATES = {BuildState.SUCCEEDED: ImageState.BUILT, BuildState.FAILED: ImageState.FAILED}


def image_of(connection: Connection, endpoint: StoredEndpoint) -> EndpointImage:
    """Return the image of an endpoint's deployment, as far as its build is."""
    deployment = endpoint.deployment
    if deployment.target is not EndpointTarget.CONTAINER or deployment.image:
        return EndpointImage()
    builds = [each for each in _versions(connection, endpoint) if each.created_at >= endpoint.deployed_at]
    if not builds:
        return EndpointImage(state=ImageState.ABSENT)
    newest = builds[-1]
    return EndpointImage(state=_STATES.get(newest.state, ImageState.BUILDING), name=str(newest), reason=newest.reason)


def queue_build(blobs: BlobStore, endpoint: StoredEndpoint, now: datetime) -> ImageRecord:
    """Queue the build of an endpoint's image, unless an earlier one has the same content; return the record of either.

    Raises:
        NotFoundError: a model, the environment or a file no longer exists.
        ConflictError: a model has the name of the image.
        BadInputError: a model cannot be served without a script.
    """
    source = _push_source(blobs, endpoint) if endpoint.deployment.entry_script else None
    deployment = endpoint.deployment
    request = ImageRequest(
        name=_image_name(endpoint),
        models=tuple(map(str, deployment.models)),
        environment=deployment.environment,
        script=deployment.entry_script,
        source=source,
        trust=deployment.trust,
    )
    with blobs.database.transaction() as connection:
        resolved = requests.resolve(connection, blobs, request)
        for record in reversed(_versions(connection, endpoint)):
            if record.request == resolved and record.state is BuildState.SUCCEEDED:
                return record
        return store.create(connection, resolved, now)


def _versions(connection: Connection, endpoint: StoredEndpoint) -> list[ImageRecord]:
    try:
        return store.versions(connection, _image_name(endpoint))
    except NotFoundError:
        return []


def _image_name(endpoint: StoredEndpoint) -> str:
    return f"{endpoint.name}-endpoint"


def _push_source(blobs: BlobStore, endpoint: StoredEndpoint) -> Descriptor:
    """Store the folder of the entry script as a layer; the same files give the same layer."""
    entries = [
        Entry(path=f"{APPLICATION_FOLDER}/{file.path}", source=blobs.blob_path(FILES_REPOSITORY, file.digest))
        for file in endpoint.deployment.files
    ]
    repository = _image_name(endpoint)
    with tempfile.TemporaryFile() as tar:
        hashing = HashingStream(tar)
        write_tar(hashing, entries)
        tar.seek(0)
        upload_id = blobs.begin_upload(repository)
        with blobs.continuing(repository, upload_id, 0) as upload:
            for piece in iter(partial(tar.read, _PIECE_BYTES), b""):
                upload.write(piece)
    blobs.finish_upload(repository, upload_id, hashing.digest)
    return Descriptor(mediaType=LAYER_TYPE, digest=hashing.digest, size=hashing.size)
