"""Find the client context: `client.json` by its path or its directory, or a bare URL (docs/spec/protocol.md, P70).

A bare URL takes the token from EDGEWRIGHT_TOKEN and a private authority from EDGEWRIGHT_CA. Where nothing names a cloud, a folder
with an embedded cloud uses that one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgewright.contracts.connection.client_context import CONTEXT_FILE, ClientContext
from edgewright.errors import DeniedError, NotFoundError
from edgewright.sdk import embedded

DEFAULT = Path("~/.config/edgewright") / CONTEXT_FILE


def find_context(
    cloud: str | None = None, environment: Mapping[str, str] | None = None, *, start_embedded: bool = False
) -> ClientContext:
    """Return the context of `cloud` (a path or URL), else of EDGEWRIGHT_CLOUD, else of the default file or the embedded cloud.

    Args:
        cloud: path of `client.json` or of its directory, or a URL.
        environment: environment variables; default: those of this process.
        start_embedded: create an embedded cloud in this folder if nothing names a cloud. One that exists is always used.

    Raises:
        NotFoundError: there is no such file.
        OperationError: the embedded cloud does not start.
        DeniedError: the token is missing or cannot be read.
        BadInputError: the file, the address or the token is invalid.
    """
    environment = os.environ if environment is None else environment
    place = cloud or environment.get("EDGEWRIGHT_CLOUD")
    if place and "://" in place:
        return _from_url(place, environment)
    path = Path(place).expanduser() if place else DEFAULT.expanduser()
    if not place and not path.exists() and (start_embedded or embedded.is_in(Path(embedded.FOLDER))):
        return embedded.ensure_running(Path(embedded.FOLDER).absolute())
    if path.is_dir():
        path = path / CONTEXT_FILE
    if not path.is_file():
        hint = "" if place else f" and neither --cloud nor EDGEWRIGHT_CLOUD nor {embedded.FOLDER} here names another"
        raise NotFoundError(
            f"{path}: no such client context{hint}; it is {CONTEXT_FILE} in the state directory of 'edgewright cloud up'"
        )
    return ClientContext.read(path)


def _from_url(url: str, environment: Mapping[str, str]) -> ClientContext:
    token = environment.get("EDGEWRIGHT_TOKEN")
    if not token:
        raise DeniedError(
            f"an address without a client context needs the operator token in EDGEWRIGHT_TOKEN: set it, or give a {CONTEXT_FILE}"
        )
    authority = environment.get("EDGEWRIGHT_CA")
    return ClientContext(url=url.rstrip("/"), token=token.strip(), ca_file=Path(authority).expanduser() if authority else None)
