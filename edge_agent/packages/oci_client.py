"""Pull from an OCI registry: documents whole, blobs in pieces that survive a cut, a kill or a lying server.

The length of the partial file is where the next request starts (HTTP Range). Only a digest decides whether bytes are believed:
a blob that comes out wrong is thrown away and asked for again, three times at most, counted on disk.
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
from edgewright.contracts.files import reporting_full_disk
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index
from edgewright.errors import OperationError, PackageError, UnreachableError, one_line

MAX_DOCUMENT_BYTES = 4 << 20
MAX_TRIES_PER_BLOB = 3
_CHUNK_BYTES = 1 << 16
_DOCUMENTS = (INDEX_TYPE, MANIFEST_TYPE)


class Registry:
    """One repository of a registry, pulled into a store. It is a `contracts.oci.BlobSource`."""

    def __init__(self, url: str, repository: str, context: ssl.SSLContext, store: Store, count: Callable[[int], None]) -> None:
        self._base = f"{url.rstrip('/')}/v2/{repository}"
        self._store = store
        self._count = count
        self._pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=urllib3.Timeout(connect=10.0, read=30.0))

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.clear()

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a small blob or document, from the store or fetched and verified."""
        if descriptor.size > MAX_DOCUMENT_BYTES:
            raise PackageError(f"{descriptor.digest} must be at most {MAX_DOCUMENT_BYTES} bytes, not {descriptor.size}")
        self.pull(descriptor)
        return self._store.read_blob(descriptor)

    def pull(self, descriptor: Descriptor) -> None:
        """Bring a blob into the store unless it is there, resuming what is partly here.

        Raises:
            PackageError: its bytes were wrong three times.
            UnreachableError: the connection failed; what came so far stays.
            OperationError: the registry refused.
            StorageFullError: the disk is full; what came so far stays.
        """
        while not self._store.has_blob(descriptor.digest, descriptor.size):
            why_wrong = self._continue(descriptor)
            if why_wrong is not None:
                self._spend_try(descriptor, why_wrong)
        self._tries_path(descriptor).unlink(missing_ok=True)

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        """Return what refers to `digest`: by the referrers API, or by the fallback tag where there is none (OCI 1.1)."""
        found = self._document(f"/referrers/{digest}?artifactType={quote(artifact_type, safe='')}")
        if found is None:
            found = self._document(f"/manifests/{digest.replace(':', '-')}")
        if found is None:
            return ()
        index = wire.decode(found, Index, what=f"the referrers of {digest}", error=PackageError)
        return tuple(entry for entry in index.manifests if entry.artifactType == artifact_type)

    def _document(self, path: str) -> bytes | None:
        with self._request(path, {"Accept": ", ".join(_DOCUMENTS)}) as response:
            if response.status == 404:
                return None
            self._require_success(response, path)
            return b"".join(self._chunks(response, MAX_DOCUMENT_BYTES))

    def _continue(self, descriptor: Descriptor) -> str | None:
        """Fetch what is missing of a blob and take it in; return what was wrong with it, if anything."""
        partial = self._store.partial_path(descriptor.digest)
        have = partial.stat().st_size if partial.exists() else 0
        if have < descriptor.size or have == 0:
            why_wrong = self._append(descriptor, partial, have)
            if why_wrong is not None:
                partial.unlink(missing_ok=True)
                return why_wrong
        if self._store.take_in(descriptor):
            return None
        return "its bytes have another digest"

    def _append(self, descriptor: Descriptor, partial: Path, have: int) -> str | None:
        kind = "manifests" if descriptor.mediaType in _DOCUMENTS else "blobs"
        path = f"/{kind}/{descriptor.digest}"
        headers = {"Accept": descriptor.mediaType, **({"Range": f"bytes={have}-"} if have else {})}
        with self._request(path, headers) as response:
            if response.status == 416:
                return f"the registry has no byte {have} of {descriptor.size}"
            self._require_success(response, path)
            start = have if response.status == 206 else 0
            told = response.headers.get("Content-Length", "")
            if told.isdigit() and int(told) != descriptor.size - start:
                return f"the registry has {int(told) + start} bytes of {descriptor.size}"
            with reporting_full_disk("a blob"), partial.open("r+b" if start else "wb", buffering=0) as stream:
                stream.seek(start)
                for chunk in self._chunks(response, descriptor.size - start):
                    stream.write(chunk)
        return None

    def _chunks(self, response: urllib3.BaseHTTPResponse, limit: int) -> Iterator[bytes]:
        """Yield the body, counted, up to `limit` bytes and one more, which makes the digest wrong."""
        left = limit + 1
        try:
            for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
                self._count(len(chunk))
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return
        except urllib3.exceptions.HTTPError as cut:
            raise UnreachableError(f"the connection to {self._base} must last, but: {one_line(cut)}") from cut

    @contextmanager
    def _request(self, path: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        plain = {**headers, "Accept-Encoding": "identity"}  # the digest and the count are of the bytes as they are
        try:
            response = self._pool.request("GET", self._base + path, headers=plain, preload_content=False, redirect=False)
        except urllib3.exceptions.HTTPError as failed:
            raise UnreachableError(f"the registry must answer at {self._base}, but: {one_line(failed)}") from failed
        try:
            yield response
        finally:
            response.close()

    def _require_success(self, response: urllib3.BaseHTTPResponse, path: str) -> None:
        if response.status not in (200, 206):
            said = error_from(response.status, response.read(4096), self._base + path)
            raise OperationError(f"the registry must give {path.lstrip('/')}, but it answered {response.status}: {said}")

    def _spend_try(self, descriptor: Descriptor, why_wrong: str) -> None:
        path = self._tries_path(descriptor)
        tries = (int(path.read_text()) if path.is_file() else 0) + 1
        if tries >= MAX_TRIES_PER_BLOB:
            raise PackageError(
                f"blob {descriptor.digest} must come from the registry unchanged, but {why_wrong}, {tries} times: "
                "the package was changed or damaged; publish it again"
            )
        path.write_text(str(tries))

    def _tries_path(self, descriptor: Descriptor) -> Path:
        partial = self._store.partial_path(descriptor.digest)
        return partial.with_name(f"{partial.name}.tries")
