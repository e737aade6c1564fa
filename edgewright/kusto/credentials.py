"""Credentials for a cluster: a token in a file, a managed identity, or what Azure's libraries find on this machine."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlsplit

from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
from azure.kusto.data import KustoConnectionStringBuilder

from edgewright.contracts.connection.client_context import is_loopback
from edgewright.errors import BadInputError

SYSTEM_ASSIGNED = "system"


def check_uri(uri: str) -> str:
    """Return the address of a cluster without a slash at its end.

    Raises:
        BadInputError: not `https://HOST`; `http://` is accepted for an emulator on this machine.
    """
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    is_secure = host is not None and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
    if not is_secure or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc or set(uri) & set("; \n"):
        raise BadInputError(
            "the address of a cluster must be https://HOST, as in https://fleet.westeurope.kusto.windows.net "
            f"(http:// on this machine alone, for an emulator), not {uri!r}"
        )
    return uri.rstrip("/")


def connection_settings(uri: str, *, token_file: Path | None, managed_identity: str | None) -> KustoConnectionStringBuilder:
    """Return how the client connects to a cluster.

    Args:
        uri: the address of the cluster, as `check_uri` returns it.
        token_file: a file with an access token; it is read again for each request, so that another program may renew it.
        managed_identity: the client id of a user-assigned identity, or "system".

    Without a token and an identity, an emulator (`http://`) gets no credential. A cluster gets that of
    `DefaultAzureCredential`: environment variables, workload identity, managed identity, or the login of `az`.

    Raises:
        BadInputError: two credentials, or a token file that has no token.
    """
    logging.getLogger("azure").setLevel(logging.ERROR)  # its warnings repeat the cause of the error that it raises
    if token_file is not None and managed_identity is not None:
        raise BadInputError("a credential must be --token-file or --managed-identity, not both")
    if token_file is not None:
        read_token(token_file)
        return KustoConnectionStringBuilder.with_token_provider(uri, lambda: read_token(token_file))
    if managed_identity is not None:
        client_id = None if managed_identity == SYSTEM_ASSIGNED else managed_identity
        return KustoConnectionStringBuilder.with_azure_token_credential(uri, ManagedIdentityCredential(client_id=client_id))
    if uri.startswith("http://"):
        return KustoConnectionStringBuilder.with_no_authentication(uri)
    return KustoConnectionStringBuilder.with_azure_token_credential(uri, DefaultAzureCredential())


def read_token(path: Path) -> str:
    """Return the access token in a file."""
    try:
        token = path.read_text("ascii").strip()
    except OSError as error:
        raise BadInputError(f"{path}: the access token cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise BadInputError(f"{path} must hold one access token on one line, and nothing else")
    return token
