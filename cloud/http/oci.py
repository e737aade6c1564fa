"""The OCI distribution API 1.1 (`/v2/`): what docker, skopeo, oras and our own clients push to and pull from.

Bodies are streamed to disk in pieces of a megabyte and never held whole in memory. Members pull, operators push, nobody deletes.
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
from cloud.registry import manifests as oci_manifests
from cloud.registry.blobs import MAX_DOCUMENT_BYTES, Upload
from edgewright.contracts import wire
from edgewright.contracts.names import check_digest, check_name
from edgewright.contracts.oci import INDEX_TYPE, encode_document
from edgewright.errors import BadInputError

_PIECE_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,15})-(\d{1,15})(?:/.*)?")
_DIGEST_HEADER = "Docker-Content-Digest"


class BlobResponse(FileResponse):
    """A blob, or the range of it that was asked for, in large pieces: each piece costs a hop to a thread."""

    chunk_size = _PIECE_BYTES


def support(_call: Call) -> Response:
    """Say that this API is spoken here."""
    return Response(b"{}", media_type="application/json", headers={"Docker-Distribution-API-Version": "registry/2.0"})


def get_blob(call: Call) -> Response:
    """Give a blob or a range of it."""
    digest = call.path("digest")
    path = call.cloud.store.blob_path(call.path("name"), digest)
    headers = {_DIGEST_HEADER: digest, "ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"}
    return BlobResponse(path, headers=headers, media_type="application/octet-stream", stat_result=path.stat())


async def begin_upload(call: Call) -> Response:
    """Begin an upload; or mount a blob that is here already; or take a whole blob at once."""
    store, name, digest = call.cloud.store, call.path("name"), call.text("digest")
    wanted = call.text("mount")
    mounted = await to_thread.run_sync(_mount, call, wanted) if wanted else None
    if mounted:
        return _created(name, mounted)
    identity = await to_thread.run_sync(store.begin_upload, name)
    if digest is None:
        return _accepted(name, identity, 0)
    try:
        await _receive(call, identity, None)
    except (ClientDisconnect, BadInputError):
        await to_thread.run_sync(store.cancel_upload, name, identity)
        raise
    await to_thread.run_sync(store.finish_upload, name, identity, check_digest(digest))
    return _created(name, digest)


def show_upload(call: Call) -> Response:
    """Say how far an upload got, so that it can go on from there."""
    name, identity = call.path("name"), call.path("upload")
    response = _accepted(name, identity, call.cloud.store.upload_size(name, identity))
    response.status_code = 204
    return response


async def continue_upload(call: Call) -> Response:
    """Add a piece to an upload."""
    size = await _receive(call, call.path("upload"), _start_of(call))
    return _accepted(call.path("name"), call.path("upload"), size)


async def finish_upload(call: Call) -> Response:
    """Add the last piece, if there is one, and make the upload a blob."""
    name, identity, digest = call.path("name"), call.path("upload"), check_digest(call.text("digest") or "")
    await _receive(call, identity, _start_of(call))
    await to_thread.run_sync(call.cloud.store.finish_upload, name, identity, digest)
    return _created(name, digest)


def cancel_upload(call: Call) -> None:
    """Throw an upload away."""
    call.cloud.store.upload_size(call.path("name"), call.path("upload"))
    call.cloud.store.cancel_upload(call.path("name"), call.path("upload"))


async def put_manifest(call: Call) -> Response:
    """Store a manifest under a tag or its digest."""
    raw = await read_limited(call.request, MAX_DOCUMENT_BYTES)
    pushed = await to_thread.run_sync(_store_manifest, call, raw)
    name = call.path("name")
    headers = {"Location": f"/v2/{name}/manifests/{pushed.digest}", _DIGEST_HEADER: pushed.digest}
    if pushed.subject:
        headers["OCI-Subject"] = pushed.subject
    return Response(status_code=201, headers=headers)


def get_manifest(call: Call) -> Response:
    """Give a manifest by tag or digest."""
    name = call.path("name")
    with call.cloud.database.reading() as connection:
        found = oci_manifests.find(connection, name, call.path("reference"))
    raw = call.cloud.store.path_of(found.digest).read_bytes()
    headers = {_DIGEST_HEADER: found.digest, "ETag": f'"{found.digest}"'}
    response = Response(raw, headers=headers)
    response.headers["Content-Type"] = found.media_type  # exactly as pushed, without a charset
    return response


def list_tags(call: Call) -> Response:
    """List the tags of a repository, in pages when asked."""
    name, limit = call.path("name"), call.whole("n", -1) if call.text("n") else None
    with call.cloud.database.reading() as connection:
        found = oci_manifests.list_tags(connection, name, None, call.text("last") or "")
    page = found[:limit]
    response = Response(wire.encode({"name": name, "tags": page}), media_type="application/json")
    if page and len(page) < len(found):
        query = urlencode({"n": limit, "last": page[-1]})
        response.headers["Link"] = f'</v2/{name}/tags/list?{query}>; rel="next"'
    return response


def list_referrers(call: Call) -> Response:
    """List what refers to a manifest: its signatures, say."""
    name = call.path("name")
    wanted = (call.text("artifactType") or "").replace(" ", "+")  # a client that did not escape the + of "+json"
    with call.cloud.database.reading() as connection:
        index = oci_manifests.referrers(connection, name, check_digest(call.path("digest")), wanted or None)
    response = Response(encode_document(index))
    response.headers["Content-Type"] = INDEX_TYPE
    if wanted:
        response.headers["OCI-Filters-Applied"] = "artifactType"
    return response


def _mount(call: Call, digest: str) -> str | None:
    mounted = call.cloud.store.mount(check_name(call.path("name"), "model"), check_digest(digest), call.text("from"))
    return digest if mounted else None


def _store_manifest(call: Call, raw: bytes) -> oci_manifests.PushedManifest:
    media_type = call.request.headers.get("content-type", "").partition(";")[0].strip()
    with call.cloud.database.transaction() as connection:
        return oci_manifests.put(
            connection,
            call.cloud.store,
            repository=call.path("name"),
            reference=call.path("reference"),
            raw=raw,
            media_type=media_type,
        )


async def _receive(call: Call, identity: str, start: int | None) -> int:
    """Write the body to the upload as it comes and return how long the upload is now."""
    with call.cloud.store.continuing(call.path("name"), identity, start) as upload:
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
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if found is None:
        raise BadInputError(f"Content-Range must be like 0-1023, not {text[:64]!r}")
    length = call.request.headers.get("content-length")
    start, end = int(found[1]), int(found[2])
    if length is not None and int(length) != end - start + 1:
        raise BadInputError(f"Content-Range {text[:64]} must be as long as the body, which has {length} bytes")
    return start


def _accepted(name: str, identity: str, size: int) -> Response:
    headers = {
        "Location": f"/v2/{name}/blobs/uploads/{identity}",
        "Range": f"0-{max(size - 1, 0)}",
        "Docker-Upload-UUID": identity,
    }
    return Response(status_code=202, headers=headers)


def _created(name: str, digest: str) -> Response:
    return Response(status_code=201, headers={"Location": f"/v2/{name}/blobs/{digest}", _DIGEST_HEADER: digest})


_BLOB, _UPLOADS, _MANIFEST = "/v2/{name}/blobs/{digest}", "/v2/{name}/blobs/uploads/", "/v2/{name}/manifests/{reference}"
_UPLOAD = "/v2/{name}/blobs/uploads/{upload}"
_BEGIN_QUERY = {"digest": "of the whole blob in the body", "mount": "a blob that is here", "from": "the repository that has it"}

ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v2/",
        access=Access.MEMBER,
        summary="Whether the OCI distribution API is spoken here.",
        handler=support,
        gives=bytes,
    ),
    Endpoint(method="GET", path=_BLOB, access=Access.MEMBER, summary="A blob; ranges work.", handler=get_blob, gives=bytes),
    Endpoint(
        method="POST",
        path=_UPLOADS,
        access=Access.OPERATOR,
        summary="Begin an upload, mount a blob, or send one whole.",
        handler=begin_upload,
        takes=bytes,
        status=202,
        query=_BEGIN_QUERY,
    ),
    Endpoint(method="GET", path=_UPLOAD, access=Access.OPERATOR, summary="How far it got.", handler=show_upload, status=204),
    Endpoint(
        method="PATCH",
        path=_UPLOAD,
        access=Access.OPERATOR,
        summary="Add a piece to an upload.",
        handler=continue_upload,
        takes=bytes,
        status=202,
    ),
    Endpoint(
        method="PUT",
        path=_UPLOAD,
        access=Access.OPERATOR,
        summary="Finish an upload.",
        handler=finish_upload,
        takes=bytes,
        status=201,
        query={"digest": "what the upload must be"},
    ),
    Endpoint(method="DELETE", path=_UPLOAD, access=Access.OPERATOR, summary="Drop an upload.", handler=cancel_upload, status=204),
    Endpoint(
        method="PUT",
        path=_MANIFEST,
        access=Access.OPERATOR,
        summary="Store a manifest under a tag or its digest.",
        handler=put_manifest,
        takes=bytes,
        status=201,
    ),
    Endpoint(
        method="GET",
        path=_MANIFEST,
        access=Access.MEMBER,
        summary="A manifest by tag or digest.",
        handler=get_manifest,
        gives=bytes,
    ),
    Endpoint(
        method="GET",
        path="/v2/{name}/tags/list",
        access=Access.MEMBER,
        summary="The tags of a repository.",
        handler=list_tags,
        gives=bytes,
        query={"n": "at most so many", "last": "only tags after this one"},
    ),
    Endpoint(
        method="GET",
        path="/v2/{name}/referrers/{digest}",
        access=Access.MEMBER,
        summary="What refers to a manifest.",
        handler=list_referrers,
        gives=bytes,
        query={"artifactType": "only of this type"},
    ),
)
