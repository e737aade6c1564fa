"""References of images, as docker writes them: HOST[:PORT]/REPOSITORY[:TAG][@DIGEST].

Source: https://github.com/distribution/reference. A reference without a host names Docker Hub.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from edgewright.errors import BadInputError

_HUB = "registry-1.docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+|/)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A place of an image in a registry."""

    host: str
    repository: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def is_local(self) -> bool:
        """True for a registry on this machine, which may speak HTTP without TLS."""
        name = self.host.rpartition(":")[0] if re.search(r":[0-9]+$", self.host) else self.host
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return name == "localhost"


def parse_image_reference(text: str) -> ImageReference:
    """Parse a reference; raise `BadInputError` if it is not one."""
    rest, _, digest = text.partition("@")
    first, slash, remainder = rest.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    host, path = (first, remainder) if is_host else (_HUB, rest)
    path, _, tag = path.partition(":")
    if host in (*_HUB_NAMES, _HUB):
        host = _HUB
        path = path if "/" in path else f"library/{path}"
    if not _REPOSITORY.fullmatch(path) or not _TAG.fullmatch(tag or "latest") or (digest and not _DIGEST.fullmatch(digest)):
        raise BadInputError(f"an image must have the form registry.example:5000/name:tag, not {text[:200]!r}")
    return ImageReference(host, path, tag or "latest", digest)
