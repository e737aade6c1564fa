"""HTTPS to one cloud: every answer is verified, every refusal becomes one of our errors with the server's own line."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from edgewright.contracts.client_context import ClientContext
from edgewright.contracts.http_errors import error_of
from edgewright.errors import BadInputError, OperationError, UnreachableError, one_line

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: 2xx, or a status that the caller said it can use."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A pool of verified TLS connections that shows the operator token."""

    def __init__(self, context: ClientContext) -> None:
        self.context = context
        try:
            tls = ssl.create_default_context(cafile=context.ca_file)
        except (OSError, ssl.SSLError) as wrong:
            raise BadInputError(f"{context.ca_file}: must be a certificate authority in PEM, but: {wrong}") from wrong
        self._pool = urllib3.PoolManager(ssl_context=tls, retries=False, maxsize=4)

    def __enter__(self) -> Self:
        """Use as a context manager: the connections are closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; the next request would open new ones."""
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
    ) -> Answer:
        """Send one request and return its answer.

        Args:
            method: the HTTP method.
            path: a path below the cloud's address, or a `Location` that the cloud gave.
            query: parameters; those that are None are left out.
            body: the bytes to send.
            headers: besides the token.
            usable: statuses that are no error to the caller.
            timeout_s: how long to wait for the connection and for each piece of the answer.

        Raises:
            UnreachableError: nobody answered, or somebody who is not this cloud.
            EdgewrightError: the cloud refused; the type says how, the text is the cloud's.
        """
        url = self._address(path, query or {})
        sent = {"Authorization": f"Bearer {self.context.token}", **(headers or {})}
        try:
            response = self._pool.request(
                method, url, body=body, headers=sent, timeout=urllib3.Timeout(connect=10, read=timeout_s), redirect=False
            )
        except urllib3.exceptions.SSLError as wrong:
            raise UnreachableError(self._who_is_that(wrong)) from wrong
        except urllib3.exceptions.HTTPError as silent:
            raise UnreachableError(
                f"the cloud at {self.context.url} must answer, but: {_cause(silent)}; is 'edgewright cloud up' running there?"
            ) from silent
        if 200 <= response.status < 300 or response.status in usable:
            return Answer(response.status, response.headers, response.data)
        raise error_of(response.status, response.data, f"{method} {url}")

    def _address(self, path: str, query: Mapping[str, str | int | float | None]) -> str:
        """Return the full address; a `Location` that leads elsewhere is refused, for the token must not follow it."""
        url = urljoin(self.context.url + "/", path)
        if urlsplit(url)[:2] != urlsplit(self.context.url)[:2]:
            raise OperationError(f"the cloud at {self.context.url} must not send its clients elsewhere, but it sent us to {url}")
        given = {name: value for name, value in query.items() if value is not None}
        if not given:
            return url
        return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(given)}"

    def _who_is_that(self, wrong: Exception) -> str:
        believed = self.context.ca_file or "the authorities of this system"
        return f"the certificate of {self.context.url} must come from {believed} and be for that name, but: {_cause(wrong)}"


def _cause(error: Exception) -> str:
    """Return the innermost cause on one line; urllib3 wraps it in several sentences."""
    innermost: BaseException = error
    while (cause := innermost.__cause__ or innermost.__context__) is not None:
        innermost = cause
    return one_line(innermost)
