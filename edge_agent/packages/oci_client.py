"""OCI registry client that pulls blobs in pieces, so that a download continues after a lost connection or a kill.

The length of the incomplete file is the start of the next request (HTTP Range). Bytes are accepted only by their digest: a blob
with another digest is deleted and pulled again, at most three times, counted on disk. Of a layer that is a tar around one file,
the file alone is pulled.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import urllib3

from edge_agent.link.https_client import error_from
from edge_agent.storage.store import Store
from edgewright.contracts import wire
from edgewright.contracts.environments.file_layers import place_of
from edgewright.contracts.files import reporting_full_disk
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index
from edgewright.errors import OperationError, PackageError, UnreachableError, one_line

MAX_DOCUMENT_BYTES = 4 << 20
MAX_TRIES_PER_BLOB = 3
_CHUNK_BYTES = 1 << 16
_DOCUMENTS = (INDEX_TYPE, MANIFEST_TYPE)


class OciClient:
    """Client of one repository that pulls into a store; implements `contracts.oci.BlobSource`."""

    def __init__(self, url: str, repository: str, context: ssl.SSLContext, store: Store, count: Callable[[int], None]) -> None:
        self._base = f"{url.rstrip('/')}/v2/{repository}"
        self._store = store
        self._count = count
        self._pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=urllib3.Timeout(connect=10.0, read=30.0))

    def __enter__(self) -> OciClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.clear()

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a small blob or document, from the store or pulled and verified.

        Raises:
            PackageError: the blob is larger than `MAX_DOCUMENT_BYTES`, or damaged.
        """
        if descriptor.size > MAX_DOCUMENT_BYTES:
            raise PackageError(f"blob {descriptor.digest} must have at most {MAX_DOCUMENT_BYTES} bytes, not {descriptor.size}")
        self.pull(descriptor)
        return self._store.read_blob(descriptor)

    def pull(self, descriptor: Descriptor) -> None:
        """Pull a blob into the store if it is missing, and continue an earlier download.

        Raises:
            PackageError: its bytes were wrong three times.
            UnreachableError: the connection failed; the received bytes are kept.
            OperationError: the registry rejected the request.
            StorageFullError: the disk is full; the received bytes are kept.
        """
        self._store.drop_damaged_blob(descriptor)
        while not self._store.has_blob(descriptor.digest, descriptor.size):
            fault = self._continue(descriptor)
            if fault is not None:
                self._count_try(descriptor, fault)
        self._tries_path(descriptor).unlink(missing_ok=True)

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        """Return the referrers of `digest` from the referrers API, or from the fallback tag if there is no such API (OCI 1.1)."""
        raw = self._document(f"/referrers/{digest}?artifactType={quote(artifact_type, safe='')}")
        if raw is None:
            raw = self._document(f"/manifests/{digest.replace(':', '-')}")
        if raw is None:
            return ()
        index = wire.decode(raw, Index, what=f"the referrers of {digest}", error=PackageError)
        return tuple(entry for entry in index.manifests if entry.artifactType == artifact_type)

    def _document(self, path: str) -> bytes | None:
        with self._request(path, {"Accept": ", ".join(_DOCUMENTS)}) as response:
            if response.status == 404:
                return None
            self._require_success(response, path)
            return b"".join(self._chunks(response, 0, MAX_DOCUMENT_BYTES + 1))

    def _continue(self, descriptor: Descriptor) -> str | None:
        """Pull the missing bytes of a blob and add it to the store; return its fault, or None."""
        partial = self._store.partial_path(descriptor.digest)
        if descriptor.size == 0:
            partial.touch()
        have = partial.stat().st_size if partial.exists() else 0
        if have < descriptor.size:
            fault = self._append(descriptor, partial, have)
            if fault is not None:
                partial.unlink(missing_ok=True)
                return fault
        if self._store.add_download(descriptor):
            return None
        return "its bytes have another digest"

    def _append(self, descriptor: Descriptor, partial: Path, have: int) -> str | None:
        kind = "manifests" if descriptor.mediaType in _DOCUMENTS else "blobs"
        blob, offset = place_of(descriptor)
        path = f"/{kind}/{blob}"
        headers = {"Accept": descriptor.mediaType, **_range(descriptor, offset, have)}
        with self._request(path, headers) as response:
            if response.status == 416:
                return f"the registry has no byte {have} of {descriptor.size}"
            self._require_success(response, path)
            is_range = response.status == 206
            start = have if is_range else 0
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and int(length) != descriptor.size - start and (is_range or blob == descriptor.digest):
                return f"the registry has {int(length) + start} bytes of {descriptor.size}"
            skipped = 0 if is_range else offset
            limit = descriptor.size - start + (blob == descriptor.digest)  # one more shows that a blob is too long
            with reporting_full_disk("a blob"), partial.open("r+b" if start else "wb", buffering=0) as stream:
                stream.seek(start)
                for chunk in self._chunks(response, skipped, limit):
                    stream.write(chunk)
        return None

    def _chunks(self, response: urllib3.BaseHTTPResponse, skipped: int, limit: int) -> Iterator[bytes]:
        """Count the body, and yield at most `limit` bytes of it after the first `skipped`."""
        left = limit
        try:
            for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
                self._count(len(chunk))
                kept = chunk[skipped:][:left]
                skipped = max(skipped - len(chunk), 0)
                if kept:
                    yield kept
                left -= len(kept)
                if left <= 0:
                    return
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"the connection to {self._base} was interrupted: {one_line(error)}") from error

    @contextmanager
    def _request(self, path: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        uncompressed = {**headers, "Accept-Encoding": "identity"}  # digests and counts are of the uncompressed bytes
        try:
            response = self._pool.request("GET", self._base + path, headers=uncompressed, preload_content=False, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"cannot connect to the registry at {self._base}: {one_line(error)}") from error
        try:
            yield response
        finally:
            response.close()

    def _require_success(self, response: urllib3.BaseHTTPResponse, path: str) -> None:
        if response.status not in (200, 206):
            error = error_from(response.status, response.read(4096), self._base + path)
            raise OperationError(f"the registry must return {path.lstrip('/')}, but it answered {response.status}: {error}")

    def _count_try(self, descriptor: Descriptor, fault: str) -> None:
        path = self._tries_path(descriptor)
        tries = (int(path.read_text()) if path.is_file() else 0) + 1
        if tries >= MAX_TRIES_PER_BLOB:
            raise PackageError(
                f"blob {descriptor.digest} must come from the registry unchanged, but {fault}, {tries} times: "
                "the package was changed or damaged; publish it again"
            )
        path.write_text(str(tries))

    def _tries_path(self, descriptor: Descriptor) -> Path:
        partial = self._store.partial_path(descriptor.digest)
        return partial.with_name(f"{partial.name}.tries")


def _range(file: Descriptor, offset: int, have: int) -> dict[str, str]:
    """Return the header that asks for the bytes of a file from `have` on; none for a whole blob."""
    if place_of(file)[0] != file.digest:
        return {"Range": f"bytes={offset + have}-{offset + file.size - 1}"}
    return {"Range": f"bytes={have}-"} if have else {}
