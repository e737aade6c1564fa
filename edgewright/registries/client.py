"""Pull from and push to one registry by the OCI distribution specification 1.1.

A request without a valid credential is answered 401 with a challenge; it is repeated once with Basic or with a fetched token.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor
from edgewright.errors import BadInputError, DeniedError, NotFoundError, OperationError, UnreachableError, one_line
from edgewright.registries.login import Challenge, Credentials
from edgewright.registries.references import ImageReference

DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPTED = ", ".join((INDEX_TYPE, MANIFEST_TYPE, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE))
_TIMEOUT = urllib3.Timeout(connect=15, read=120)
_PIECE_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 4 << 20


class RegistryClient:
    """Requests to the repository of one image reference; a context manager."""

    def __init__(
        self,
        image: ImageReference,
        credentials: Credentials | None = None,
        *,
        ca_file: Path | None = None,
        mount_from: str = "",
    ) -> None:
        self.image = image
        self.mount_from = mount_from
        """Another repository of the registry, whose blobs need not be sent."""
        self._credentials = credentials
        self._authorization = ""
        try:
            tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise BadInputError(f"{ca_file}: must be a certificate authority in PEM: {error}") from error
        self._pool = urllib3.PoolManager(ssl_context=tls, retries=False, timeout=_TIMEOUT)
        self._url = f"https://{image.host}"

    def __enter__(self) -> Self:
        """Find out whether a registry on this machine speaks TLS; elsewhere it must."""
        if self.image.is_local:
            try:
                self._pool.request("GET", f"{self._url}/v2/").close()
            except urllib3.exceptions.SSLError as error:
                if "certificate" in str(error).lower():
                    raise self._unreachable(error) from error
                self._url = f"http://{self.image.host}"
            except urllib3.exceptions.HTTPError as error:
                raise self._unreachable(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self._pool.clear()

    def manifest(self, reference: str) -> tuple[bytes, str]:
        """Return the bytes and the media type of a manifest or index.

        Raises:
            NotFoundError: the registry has no such tag or digest.
        """
        response = self._request("GET", f"manifests/{reference}", headers={"Accept": _ACCEPTED}, actions="pull")
        raw = response.data
        if len(raw) > _MAX_MANIFEST_BYTES:
            raise OperationError(f"the manifest of {self.image} must have at most {_MAX_MANIFEST_BYTES} bytes, not {len(raw)}")
        if reference.startswith("sha256:") and f"sha256:{hashlib.sha256(raw).hexdigest()}" != reference:
            raise OperationError(f"{self.image.host} must send the manifest {reference}, but sent other bytes: try again")
        return raw, response.headers.get("Content-Type", "").partition(";")[0].strip()

    def referrers(self, digest: str) -> bytes:
        """Return the index of the manifests that refer to a digest.

        Raises:
            NotFoundError: the registry has no referrers API.
        """
        return self._request("GET", f"referrers/{digest}", headers={"Accept": INDEX_TYPE}, actions="pull").data

    def read_blob(self, digest: str) -> bytes:
        """Return a small blob, such as a config; its digest is checked."""
        raw = self._request("GET", f"blobs/{digest}", actions="pull").data
        if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
            raise OperationError(f"{self.image.host} must send the blob {digest}, but sent other bytes: try again")
        return raw

    def pieces(self, digest: str) -> Iterator[bytes]:
        """Yield the bytes of a blob; the caller checks the digest."""
        response = self._request("GET", f"blobs/{digest}", actions="pull", stream=True)
        try:
            yield from response.stream(_PIECE_BYTES)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        finally:
            response.release_conn()

    def has_blob(self, digest: str) -> bool:
        """Return True if the repository has a blob."""
        return self._request("HEAD", f"blobs/{digest}", usable=(404,)).status == 200

    def mount_blob(self, digest: str) -> bool:
        """Show a blob of `mount_from` in this repository too; return False if it must be sent."""
        if not self.mount_from:
            return False
        query = urlencode({"mount": digest, "from": self.mount_from})
        response = self._request("POST", f"blobs/uploads/?{query}", headers={"Content-Length": "0"})
        if response.status == 201:
            return True
        self._request("DELETE", urljoin(f"{self._url}/", response.headers.get("Location", "")), usable=(404, 405))
        return False

    def push_blob(self, blob: Descriptor, stream: IO[bytes]) -> None:
        """Upload a blob in one piece."""
        begun = self._request("POST", "blobs/uploads/", headers={"Content-Length": "0"})
        location = urljoin(f"{self._url}/", begun.headers.get("Location", ""))
        separator = "&" if urlsplit(location).query else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        self._request("PUT", f"{location}{separator}{urlencode({'digest': blob.digest})}", headers=headers, body=stream)

    def push_manifest(self, raw: bytes, media_type: str, reference: str) -> bool:
        """Store a manifest or index under a tag or its digest; return True if the registry lists it as a referrer."""
        response = self._request("PUT", f"manifests/{reference}", headers={"Content-Type": media_type}, body=raw)
        return "OCI-Subject" in response.headers

    def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
        usable: tuple[int, ...] = (),
        actions: str = "pull,push",
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        response = self._send(method, path, headers, body, stream=stream)
        if response.status == 401:
            self._log_in(response.headers.get("WWW-Authenticate", ""), actions)
            if body is not None and not isinstance(body, bytes):
                body.seek(0)
            response = self._send(method, path, headers, body, stream=stream)
        if 200 <= response.status < 300 or response.status in usable:
            return response
        raise self._refusal(response, f"{method} {urlsplit(path).path}")

    def _send(
        self, method: str, path: str, headers: Mapping[str, str] | None, body: bytes | IO[bytes] | None, *, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        url = path if "://" in path else f"{self._url}/v2/{self.image.repository}/{path}"
        sent = dict(headers or {})
        if self._authorization and urlsplit(url).netloc == urlsplit(self._url).netloc:
            sent["Authorization"] = self._authorization  # never to the storage host that a registry redirects to
        try:
            response = self._pool.request(method, url, headers=sent, body=body, preload_content=not stream, redirect=False)
            if response.status in (301, 302, 303, 307, 308) and method == "GET":
                target = urljoin(url, response.headers.get("Location", ""))
                response = self._pool.request("GET", target, preload_content=not stream)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        return response

    def _log_in(self, header: str, actions: str) -> None:
        challenge = Challenge.parse(header)
        if challenge.scheme == "bearer" and "realm" in challenge.parameters:
            self._authorization = f"Bearer {self._token(challenge, actions)}"
        elif self._credentials is not None:
            self._authorization = self._credentials.basic()

    def _token(self, challenge: Challenge, actions: str) -> str:
        realm = challenge.parameters["realm"]
        if urlsplit(realm).scheme != "https" and not self.image.is_local:
            raise OperationError(f"{self.image.host} must send clients to an https address for tokens, not to {realm[:200]}")
        query = [("scope", f"repository:{self.image.repository}:{actions}")]
        if self.mount_from:
            query.append(("scope", f"repository:{self.mount_from}:pull"))
        if "service" in challenge.parameters:
            query.append(("service", challenge.parameters["service"]))
        headers = {"Authorization": self._credentials.basic()} if self._credentials is not None else {}
        try:
            response = self._pool.request("GET", f"{realm}?{urlencode(query)}", headers=headers)
            document: Any = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise UnreachableError(f"no token for {self.image.host} from {realm}: {one_line(error)}") from error
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if not isinstance(token, str):
            raise DeniedError(
                f"{realm} gives no token for {self.image} ({response.status}): give the user and password of the registry"
            )
        return token

    def _refusal(self, response: urllib3.BaseHTTPResponse, what: str) -> Exception:
        text = f"{self.image.host} refuses {what} ({response.status}): {_words(response)}"
        if response.status in (401, 403):
            return DeniedError(f"{text}; give the user and password of the registry, or run 'docker login {self.image.host}'")
        return NotFoundError(text) if response.status == 404 else OperationError(text)

    def _unreachable(self, error: Exception) -> UnreachableError:
        innermost: BaseException = error
        while (cause := innermost.__cause__ or innermost.__context__) is not None:
            innermost = cause
        return UnreachableError(f"the registry {self.image.host} cannot be reached: {one_line(innermost)}")


def _words(response: urllib3.BaseHTTPResponse) -> str:
    """Return the registry's own words in an error answer."""
    try:
        errors = json.loads(response.data)["errors"]
        return "; ".join(f"{each.get('code', '')} {each.get('message', '')}".strip() for each in errors)[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        return (response.reason or "no reason")[:300]
