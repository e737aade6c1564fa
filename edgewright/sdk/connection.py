"""HTTPS requests to one cloud; an error answer becomes an `EdgewrightError` with the server's message."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from edgewright.contracts.connection.client_context import ClientContext
from edgewright.contracts.connection.http_errors import error_of
from edgewright.errors import BadInputError, OperationError, UnreachableError, one_line

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Response:
    """A response of status 2xx, or of a status that the caller accepts."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A pool of verified TLS connections that send the operator token."""

    def __init__(self, context: ClientContext) -> None:
        self.context = context
        try:
            tls = ssl.create_default_context(cafile=context.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise BadInputError(f"{context.ca_file}: must be a certificate authority in PEM: {error}") from error
        self._pool = urllib3.PoolManager(ssl_context=tls, retries=False, maxsize=4)

    def __enter__(self) -> Self:
        """Use as a context manager: the connections are closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        self._pool.clear()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | float | None] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        usable: tuple[int, ...] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> Response:
        """Send one request and return its response.

        Args:
            method: the HTTP method.
            path: a path below the cloud's address, or a `Location` of an earlier response.
            query: parameters; None values are omitted.
            body: the bytes to send.
            headers: additional headers.
            usable: further statuses that are returned and do not raise.
            timeout_s: time limit for each read of the response.

        Raises:
            UnreachableError: no response, or the certificate is not this cloud's.
            EdgewrightError: the cloud rejected the request (see `edgewright.contracts.connection.http_errors`).
        """
        url = self._address(path, query or {})
        sent = {"Authorization": f"Bearer {self.context.token}", **(headers or {})}
        try:
            response = self._pool.request(
                method, url, body=body, headers=sent, timeout=urllib3.Timeout(connect=10, read=timeout_s), redirect=False
            )
        except urllib3.exceptions.SSLError as error:
            raise UnreachableError(self._untrusted(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(
                f"cannot connect to the cloud at {self.context.url}: {_cause(error)}; is 'edgewright cloud up' running there?"
            ) from error
        if 200 <= response.status < 300 or response.status in usable:
            return Response(response.status, response.headers, response.data)
        raise error_of(response.status, response.data, f"{method} {url}")

    def _address(self, path: str, query: Mapping[str, str | int | float | None]) -> str:
        """Return the full URL; raise `OperationError` for a `Location` on another host, which must not get the token."""
        url = urljoin(self.context.url + "/", path)
        if urlsplit(url)[:2] != urlsplit(self.context.url)[:2]:
            raise OperationError(
                f"the cloud at {self.context.url} must not redirect clients to another host, but it redirected to {url}"
            )
        parameters = {name: value for name, value in query.items() if value is not None}
        if not parameters:
            return url
        return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(parameters)}"

    def _untrusted(self, error: Exception) -> str:
        authority = self.context.ca_file or "an authority of this system"
        return f"the certificate of {self.context.url} must be issued by {authority} for that name: {_cause(error)}"


def _cause(error: Exception) -> str:
    """Return the innermost cause on one line; urllib3 wraps it in several sentences."""
    innermost: BaseException = error
    while (cause := innermost.__cause__ or innermost.__context__) is not None:
        innermost = cause
    return one_line(innermost)
