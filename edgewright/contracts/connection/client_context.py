"""Client context: the address of a cloud, the authority of its certificate and the operator token (docs/spec/protocol.md, P70).

The cloud writes it as `client.json` into its state directory; every client reads it from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError, DeniedError

CONTEXT_FILE = "client.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """Address, authority and token for one cloud."""

    url: str
    token: str
    ca_file: Path | None = None
    """The authority that must have issued the cloud's certificate; None means those that this system trusts."""

    def __post_init__(self) -> None:
        if not self.url.startswith("https://") and not _is_plain_loopback(self.url):
            raise BadInputError(
                f"a cloud's address must start with https://, or be http:// and a loopback address, not {self.url!r}"
            )
        if not self.token.isascii() or not self.token.isprintable():
            raise BadInputError("an operator token must be one line of printable characters; copy it from the cloud's token file")

    def __repr__(self) -> str:
        """Show everything but the token, so that it reaches no log."""
        return f"ClientContext(url={self.url!r}, ca_file={self.ca_file!r})"

    @classmethod
    def read(cls, path: Path) -> ClientContext:
        """Read a context file and the token file that it names; relative paths start at its directory.

        Raises:
            BadInputError: the file does not follow the contract.
            DeniedError: the token file cannot be read.
        """
        stored = wire.decode(path.read_bytes(), _ContextFile, what=f"client context {path}", error=BadInputError)
        token_file = path.parent / stored.token_file
        try:
            token = token_file.read_text("utf-8").strip()
        except OSError as error:
            raise DeniedError(f"{token_file}: the operator token cannot be read: {error.strerror}") from error
        if not token:
            raise DeniedError(f"{token_file}: the operator token must be one line, but the file is empty: copy it from the cloud")
        return cls(url=stored.url.rstrip("/"), token=token, ca_file=path.parent / stored.ca_file)


def is_loopback(host: str) -> bool:
    """Return True for an address that only this machine reaches."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_plain_loopback(url: str) -> bool:
    return url.startswith("http://") and is_loopback(urlsplit(url).hostname or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ContextFile:
    url: str
    ca_file: str
    token_file: str


def write_context_file(path: Path, *, url: str, ca_file: Path, token_file: Path) -> None:
    """Write a context file, readable by its owner only."""
    stored = _ContextFile(url=url, ca_file=str(ca_file), token_file=str(token_file))
    write_atomically(path, wire.encode_readable(stored), mode=0o600)
