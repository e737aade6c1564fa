"""The OCI distribution API 1.1 (`/v2/`) for docker, skopeo, oras, the SDK and the agent.

Bodies are streamed to disk in pieces of 1 MiB. Devices and operators pull, operators push; there is no deletion.
Source: https://github.com/opencontainers/distribution-spec (spec.md, release 1.1).
"""

from __future__ import annotations

import re
from urllib.parse import urlencode

from anyio import to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint, read_limited
from cloud.registry import manifests
from cloud.registry.blobs import MAX_DOCUMENT_BYTES, Upload
from edgewright.contracts import wire
from edgewright.contracts.names import check_digest, check_name
from edgewright.contracts.oci import INDEX_TYPE, encode_document
from edgewright.errors import BadInputError

_PIECE_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,15})-(\d{1,15})(?:/.*)?")
_DIGEST_HEADER = "Docker-Content-Digest"


class BlobResponse(FileResponse):
    """A blob or a range of it, sent in large pieces: each piece costs a switch to a worker thread."""

    chunk_size = _PIECE_BYTES


def support(_call: Call) -> Response:
    """Advertise support of the OCI distribution API."""
    return Response(b"{}", media_type="application/json", headers={"Docker-Distribution-API-Version": "registry/2.0"})


def get_blob(call: Call) -> Response:
    """Return a blob or a range of it."""
    digest = call.path("digest")
    path = call.cloud.blobs.blob_path(call.path("repository"), digest)
    headers = {_DIGEST_HEADER: digest, "ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"}
    return BlobResponse(path, headers=headers, media_type="application/octet-stream", stat_result=path.stat())


async def begin_upload(call: Call) -> Response:
    """Begin an upload, mount a blob of another repository, or receive a whole blob."""
    blobs, repository, digest = call.cloud.blobs, call.path("repository"), call.text("digest")
    mounted = call.text("mount")
    if mounted is not None and await to_thread.run_sync(_mount, call, mounted):
        return _created(repository, mounted)
    upload_id = await to_thread.run_sync(blobs.begin_upload, repository)
    if digest is None:
        return _accepted(repository, upload_id, 0)
    try:
        await _receive(call, upload_id, None)
    except (ClientDisconnect, BadInputError):
        await to_thread.run_sync(blobs.cancel_upload, repository, upload_id)
        raise
    await to_thread.run_sync(blobs.finish_upload, repository, upload_id, check_digest(digest))
    return _created(repository, digest)


def show_upload(call: Call) -> Response:
    """Return the size of an upload, so that the client can continue it."""
    repository, upload_id = call.path("repository"), call.path("upload")
    response = _accepted(repository, upload_id, call.cloud.blobs.upload_size(repository, upload_id))
    response.status_code = 204
    return response


async def continue_upload(call: Call) -> Response:
    """Append a piece to an upload."""
    size = await _receive(call, call.path("upload"), _start_of(call))
    return _accepted(call.path("repository"), call.path("upload"), size)


async def finish_upload(call: Call) -> Response:
    """Append the last piece, if the request has a body, and turn the upload into a blob."""
    repository, upload_id, digest = call.path("repository"), call.path("upload"), check_digest(call.text("digest") or "")
    await _receive(call, upload_id, _start_of(call))
    await to_thread.run_sync(call.cloud.blobs.finish_upload, repository, upload_id, digest)
    return _created(repository, digest)


def cancel_upload(call: Call) -> None:
    """Remove an upload."""
    call.cloud.blobs.upload_size(call.path("repository"), call.path("upload"))
    call.cloud.blobs.cancel_upload(call.path("repository"), call.path("upload"))


async def put_manifest(call: Call) -> Response:
    """Store a manifest under a tag or its digest."""
    raw = await read_limited(call.request, MAX_DOCUMENT_BYTES)
    pushed = await to_thread.run_sync(_store_manifest, call, raw)
    headers = {"Location": f"/v2/{call.path('repository')}/manifests/{pushed.digest}", _DIGEST_HEADER: pushed.digest}
    if pushed.subject:
        headers["OCI-Subject"] = pushed.subject
    return Response(status_code=201, headers=headers)


def get_manifest(call: Call) -> Response:
    """Return a manifest by tag or digest."""
    with call.cloud.database.reading() as connection:
        manifest = manifests.find(connection, call.path("repository"), call.path("reference"))
    raw = call.cloud.blobs.path_of(manifest.digest).read_bytes()
    headers = {_DIGEST_HEADER: manifest.digest, "ETag": f'"{manifest.digest}"'}
    response = Response(raw, headers=headers)
    response.headers["Content-Type"] = manifest.media_type  # exactly as pushed, without a charset
    return response


def list_tags(call: Call) -> Response:
    """List the tags of a repository, in pages of `n` if the query asks for it."""
    repository, limit = call.path("repository"), call.whole("n", -1) if call.text("n") else None
    with call.cloud.database.reading() as connection:
        tags = manifests.list_tags(connection, repository, call.text("last") or "")
    page = tags[:limit]
    response = Response(wire.encode({"name": repository, "tags": page}), media_type="application/json")
    if page and len(page) < len(tags):
        query = urlencode({"n": limit, "last": page[-1]})
        response.headers["Link"] = f'</v2/{repository}/tags/list?{query}>; rel="next"'
    return response


def list_referrers(call: Call) -> Response:
    """List the manifests that refer to a manifest, such as its signatures."""
    repository, subject = call.path("repository"), check_digest(call.path("digest"))
    artifact_type = (call.text("artifactType") or "").replace(" ", "+")  # clients may leave the + of "+json" unescaped
    with call.cloud.database.reading() as connection:
        index = manifests.referrers(connection, repository, subject, artifact_type or None)
    response = Response(encode_document(index))
    response.headers["Content-Type"] = INDEX_TYPE
    if artifact_type:
        response.headers["OCI-Filters-Applied"] = "artifactType"
    return response


def _mount(call: Call, digest: str) -> bool:
    repository = check_name(call.path("repository"), "model")
    return call.cloud.blobs.mount(repository, check_digest(digest), call.text("from"))


def _store_manifest(call: Call, raw: bytes) -> manifests.PushedManifest:
    media_type = call.request.headers.get("content-type", "").partition(";")[0].strip()
    with call.cloud.database.transaction() as connection:
        return manifests.put(
            connection,
            call.cloud.blobs,
            repository=call.path("repository"),
            reference=call.path("reference"),
            raw=raw,
            media_type=media_type,
        )


async def _receive(call: Call, upload_id: str, start: int | None) -> int:
    """Append the body to the upload as it arrives; return the new size of the upload in bytes."""
    with call.cloud.blobs.continuing(call.path("repository"), upload_id, start) as upload:
        piece = bytearray()
        async for received in call.request.stream():
            piece += received
            if len(piece) >= _PIECE_BYTES:
                await to_thread.run_sync(upload.write, bytes(piece))
                piece.clear()
        return await to_thread.run_sync(_write_last, upload, bytes(piece))


def _write_last(upload: Upload, piece: bytes) -> int:
    upload.write(piece)
    return upload.size()


def _start_of(call: Call) -> int | None:
    text = call.request.headers.get("content-range")
    if text is None:
        return None
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise BadInputError(f"Content-Range must have the form 0-1023, not {text[:64]!r}")
    length = call.request.headers.get("content-length")
    start, end = int(match[1]), int(match[2])
    if length is not None and int(length) != end - start + 1:
        raise BadInputError(f"Content-Range {text[:64]} must be as long as the body, which has {length} bytes")
    return start


def _accepted(repository: str, upload_id: str, size: int) -> Response:
    headers = {
        "Location": f"/v2/{repository}/blobs/uploads/{upload_id}",
        "Range": f"0-{max(size - 1, 0)}",
        "Docker-Upload-UUID": upload_id,
    }
    return Response(status_code=202, headers=headers)


def _created(repository: str, digest: str) -> Response:
    return Response(status_code=201, headers={"Location": f"/v2/{repository}/blobs/{digest}", _DIGEST_HEADER: digest})


_BLOB = "/v2/{repository}/blobs/{digest}"
_UPLOADS = "/v2/{repository}/blobs/uploads/"
_UPLOAD = "/v2/{repository}/blobs/uploads/{upload}"
_MANIFEST = "/v2/{repository}/manifests/{reference}"
_BEGIN_QUERY = {
    "digest": "digest of the blob, if the body is the whole blob",
    "mount": "digest of a blob of another repository",
    "from": "repository of the blob to mount",
}

ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v2/",
        access=Access.DEVICE_OR_OPERATOR,
        summary="Support of the OCI distribution API.",
        handler=support,
        response_type=bytes,
        media_types=("application/json",),
    ),
    Endpoint(
        method="GET",
        path=_BLOB,
        access=Access.DEVICE_OR_OPERATOR,
        summary="A blob or a range of it.",
        handler=get_blob,
        response_type=bytes,
        other_statuses=(206, 416),
    ),
    Endpoint(
        method="POST",
        path=_UPLOADS,
        access=Access.OPERATOR,
        summary="Begin an upload, mount a blob, or push a whole blob.",
        handler=begin_upload,
        request_type=bytes,
        status=202,
        other_statuses=(201,),
        query=_BEGIN_QUERY,
    ),
    Endpoint(method="GET", path=_UPLOAD, access=Access.OPERATOR, summary="Size of an upload.", handler=show_upload, status=204),
    Endpoint(
        method="PATCH",
        path=_UPLOAD,
        access=Access.OPERATOR,
        summary="Append a piece to an upload.",
        handler=continue_upload,
        request_type=bytes,
        status=202,
        other_statuses=(416,),
    ),
    Endpoint(
        method="PUT",
        path=_UPLOAD,
        access=Access.OPERATOR,
        summary="Finish an upload.",
        handler=finish_upload,
        request_type=bytes,
        status=201,
        other_statuses=(416,),
        query={"digest": "digest of the whole upload"},
    ),
    Endpoint(
        method="DELETE", path=_UPLOAD, access=Access.OPERATOR, summary="Cancel an upload.", handler=cancel_upload, status=204
    ),
    Endpoint(
        method="PUT",
        path=_MANIFEST,
        access=Access.OPERATOR,
        summary="Store a manifest under a tag or its digest.",
        handler=put_manifest,
        request_type=bytes,
        status=201,
    ),
    Endpoint(
        method="GET",
        path=_MANIFEST,
        access=Access.DEVICE_OR_OPERATOR,
        summary="A manifest by tag or digest.",
        handler=get_manifest,
        response_type=bytes,
        media_types=("*/*",),
    ),
    Endpoint(
        method="GET",
        path="/v2/{repository}/tags/list",
        access=Access.DEVICE_OR_OPERATOR,
        summary="The tags of a repository.",
        handler=list_tags,
        response_type=bytes,
        media_types=("application/json",),
        numbers=("n",),
        query={"n": "maximum number of tags", "last": "only tags after this one"},
    ),
    Endpoint(
        method="GET",
        path="/v2/{repository}/referrers/{digest}",
        access=Access.DEVICE_OR_OPERATOR,
        summary="The manifests that refer to a manifest.",
        handler=list_referrers,
        response_type=bytes,
        media_types=(INDEX_TYPE,),
        query={"artifactType": "only manifests of this type"},
    ),
)
