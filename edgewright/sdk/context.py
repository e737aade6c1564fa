"""Where the cloud is, whom to believe there, and the token that opens it (docs/spec/protocol.md, P70).

A context is the `client.json` that the cloud writes into its state directory, named by its path or its directory. A bare URL
takes the token from EDGEWRIGHT_TOKEN and a private authority from EDGEWRIGHT_CA.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgewright.contracts import wire
from edgewright.errors import BadInputError, DeniedError, NotFoundError

CONTEXT_FILE = "client.json"
DEFAULT = Path("~/.config/edgewright") / CONTEXT_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """What a client needs to talk to one cloud."""

    url: str
    token: str
    ca_file: Path | None = None
    """The authority that the cloud's certificate must come from; None means those that this system trusts."""

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise BadInputError(f"a cloud's address must start with https://, not {self.url!r}")
        if not self.token.isascii() or not self.token.isprintable():
            raise BadInputError("an operator token must be one line of printable characters; copy it from the cloud's token file")

    def __repr__(self) -> str:
        """Show everything but the token, so that it reaches no log."""
        return f"ClientContext(url={self.url!r}, ca_file={self.ca_file!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ContextFile:
    url: str
    ca_file: str
    token_file: str


def find_context(cloud: str | None = None, environment: Mapping[str, str] | None = None) -> ClientContext:
    """Return the context that `cloud` (a path or URL), else EDGEWRIGHT_CLOUD, else the default file names."""
    environment = os.environ if environment is None else environment
    named = cloud or environment.get("EDGEWRIGHT_CLOUD")
    if named and "://" in named:
        return _from_url(named, environment)
    path = Path(named).expanduser() if named else DEFAULT.expanduser()
    if path.is_dir():
        path = path / CONTEXT_FILE
    if not path.is_file():
        hint = "" if named else " and neither --cloud nor EDGEWRIGHT_CLOUD names another"
        raise NotFoundError(
            f"{path}: no such client context{hint}; it is {CONTEXT_FILE} in the state directory of 'edgewright cloud up'"
        )
    return _from_file(path)


def _from_url(url: str, environment: Mapping[str, str]) -> ClientContext:
    token = environment.get("EDGEWRIGHT_TOKEN")
    if not token:
        raise DeniedError(f"a bare address needs the operator token in EDGEWRIGHT_TOKEN: set it, or name a {CONTEXT_FILE}")
    authority = environment.get("EDGEWRIGHT_CA")
    return ClientContext(url=url.rstrip("/"), token=token.strip(), ca_file=Path(authority).expanduser() if authority else None)


def _from_file(path: Path) -> ClientContext:
    """Read a context; files that it names by relative path lie beside it."""
    found = wire.decode(path.read_bytes(), _ContextFile, what=f"client context {path}", error=BadInputError)
    token_file = path.parent / found.token_file
    try:
        token = token_file.read_text("utf-8").strip()
    except OSError as failed:
        raise DeniedError(f"{token_file}: the operator token must be readable, but: {failed.strerror}") from failed
    return ClientContext(url=found.url.rstrip("/"), token=token, ca_file=path.parent / found.ca_file)
