"""A table of a Kusto cluster: create it, and send rows by streaming ingestion, through Azure's own client.

Every failure becomes one of ours. `UnavailableError` is worth a repetition: no answer, a throttled request, a failure inside the
service. Any other failure stays until the address, the name or the right is changed.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from azure.kusto.data import ClientRequestProperties, KustoClient, KustoConnectionStringBuilder
from azure.kusto.data.data_format import DataFormat
from azure.kusto.data.exceptions import (
    KustoApiError,
    KustoAuthenticationError,
    KustoClientError,
    KustoError,
    KustoNetworkError,
    KustoThrottlingError,
)

from edgewright.errors import BadInputError, DeniedError, EdgewrightError, UnreachableError, first_line, one_line
from edgewright.kusto.table import MAPPING, Table, creation_commands

_REPEATED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class UnavailableError(UnreachableError):
    """A cluster that did not take a request now; `retry_after_s` is the wait that it asked for."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Cluster:
    """A connection to one table of a cluster."""

    def __init__(self, uri: str, settings: KustoConnectionStringBuilder, table: Table) -> None:
        self.uri = uri
        self.table = table
        self._client = KustoClient(settings)

    def __enter__(self) -> Self:
        """Use as a context manager: the connections are closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self._client.close()

    def create_table(self) -> None:
        """Create the table, its mapping, its policy and its view, unless they exist.

        Raises:
            UnavailableError: the cluster did not answer, or not now.
            DeniedError: the credential may not do this.
            BadInputError: the cluster rejected the request, such as for an unknown database.
        """
        for command in creation_commands(self.table):
            self._send(partial(self._client.execute_mgmt, self.table.database, command))

    def ingest(self, lines: Sequence[bytes], request_id: str) -> None:
        """Send rows, one JSON document each; they are stored when this returns.

        Args:
            lines: the rows.
            request_id: an id that the cluster logs; a repetition has the same.

        Raises: as `create_table` does.
        """
        properties = ClientRequestProperties()
        properties.client_request_id = f"edgewright;{request_id}"
        body = gzip.compress(b"".join(lines), compresslevel=3)
        self._send(
            lambda: self._client.execute_streaming_ingest(
                self.table.database,
                self.table.name,
                stream=io.BytesIO(body),
                blob_url=None,
                stream_format=DataFormat.JSON,
                properties=properties,
                mapping_name=MAPPING,
            )
        )

    def _send(self, request: Callable[[], Any]) -> None:
        try:
            request()
        except EdgewrightError:
            raise
        except KustoError as error:
            raise self._translated(error) from error
        except (KeyError, TypeError, ValueError) as error:  # the client expects the service's JSON, which a proxy does not send
            raise UnavailableError(f"the answer of {self.uri} must be that of a Kusto cluster: {one_line(error)}") from error

    def _translated(self, error: KustoError) -> EdgewrightError:
        if isinstance(error, KustoNetworkError):
            return UnavailableError(f"no answer from the cluster {self.uri}: {one_line(_innermost(error))}")
        if isinstance(error, KustoAuthenticationError):
            if isinstance(error.exception, BadInputError):
                return error.exception
            return DeniedError(
                f"no access token for {self.uri}: {first_line(error.exception)}; see --token-file and --managed-identity"
            )
        if isinstance(error, KustoClientError):
            return DeniedError(f"the cluster {self.uri} cannot be used: {one_line(error)}")
        response = getattr(error, "http_response", None)  # false in a condition, as is every answer with an error
        if response is None and len(error.args) > 1:
            response = error.args[1]
        status = getattr(response, "status_code", 0)
        if isinstance(error, KustoThrottlingError):
            return UnavailableError(f"the cluster {self.uri} throttles requests (429)", _retry_after_s(response))
        reason = _reason(error)
        if status in _REPEATED_STATUSES or (isinstance(error, KustoApiError) and error.error.permanent is False):
            return UnavailableError(f"the cluster {self.uri} failed ({status}): {reason}", _retry_after_s(response))
        if 0 < status < 400:
            return BadInputError(f"the answer of {self.uri} must be that of a Kusto cluster, not {reason!r}")
        if status in (401, 403):
            return DeniedError(
                f"the cluster {self.uri} must accept the credential for the database {self.table.database}, but it answered "
                f"{status}: {reason}; ingestion needs the role Database Ingestor, the creation of a table Database User"
            )
        return BadInputError(
            f"the cluster {self.uri} rejected the request for {self.table.database}.{self.table.name} ({status}): {reason}"
        )


def _reason(error: KustoError) -> str:
    if isinstance(error, KustoApiError):
        return _shortened(error.error.description or error.error.message)
    return one_line(error.args[0]) if error.args and isinstance(error.args[0], BaseException) else _shortened(error.args[0])


def _shortened(text: object) -> str:
    return one_line(ValueError(str(text)))


def _retry_after_s(response: Any) -> float | None:
    """Return the seconds of the header Retry-After, which may also be a date or absent: then None."""
    text = getattr(response, "headers", {}).get("Retry-After", "")
    return float(text) if str(text).isdecimal() else None


def _innermost(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
