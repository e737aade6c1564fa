"""Credentials of a registry, and the tokens that it sends clients to fetch.

Sources: RFC 7617 (Basic) and https://distribution.github.io/distribution/spec/auth/token/ (Bearer). Stored credentials are those
of `docker login` in ~/.docker/config.json; credential helpers are not started.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from edgewright.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password of a registry."""

    user: str
    password: str = field(repr=False)

    def basic(self) -> str:
        """Return the header `Authorization` of the scheme Basic."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class Challenge:
    """The header `WWW-Authenticate` of an answer 401."""

    scheme: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge:
        """Read a header such as `Bearer realm="https://auth.example/token",service="registry"`."""
        scheme, _, rest = header.partition(" ")
        parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        return cls(scheme.lower(), parameters)


def stored_credentials(host: str) -> Credentials | None:
    """Return what `docker login` stored for a registry; None without an entry.

    Raises:
        BadInputError: docker's configuration cannot be read.
    """
    folder = os.environ.get("DOCKER_CONFIG")
    path = (Path(folder) if folder else Path("~/.docker").expanduser()) / "config.json"
    if not path.is_file():
        return None
    try:
        entry = json.loads(path.read_text("utf-8")).get("auths", {}).get(host, {})
        user, colon, password = base64.b64decode(entry.get("auth", ""), validate=True).decode("utf-8").partition(":")
    except (OSError, ValueError, AttributeError, binascii.Error) as error:
        raise BadInputError(f"{path} must be a configuration of docker: {error}") from error
    return Credentials(user, password) if colon else None
