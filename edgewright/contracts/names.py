r"""Names, versions and references; they are checked where they enter the system.

A model's name is also its repository in an OCI registry, and a device's name its MQTT user and certificate subject,
so both follow the narrowest of those grammars: the path component of the OCI distribution specification 1.1
(`[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`), at most 64 characters.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NewType

from edgewright.errors import BadInputError

Digest = NewType("Digest", str)
"""`sha256:` and 64 hexadecimal digits: the identity of some bytes."""

MAX_NAME_LENGTH = 64
TENANT = "default"
MODELS_SCHEME = "models:"

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PackageReference:
    """A model's name and a version or an alias of one; without either, the newest."""

    name: str
    version: int | None
    alias: str | None = None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        return self.name if self.version is None else f"{self.name}:{self.version}"


def check_name(name: str, what: str) -> str:
    """Return `name`; raise `BadInputError` if it is not a valid name of a `what` (model, device, variant)."""
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        article = "an" if what[0] in "aeiou" else "a"
        raise BadInputError(
            f"{article} {what}'s name must be lower-case letters and digits, joined by '.', '_' or '-', at most "
            f"{MAX_NAME_LENGTH} characters, not {name!r}"
        )
    return name


def check_digest(digest: str) -> Digest:
    """Return `digest`; raise `BadInputError` if it is not a SHA-256 digest."""
    if not _DIGEST.fullmatch(digest):
        raise BadInputError(f"a digest must be 'sha256:' followed by 64 hexadecimal digits, not {digest!r}")
    return Digest(digest)


def check_instant(instant: datetime | None, what: str) -> None:
    """Raise `BadInputError` for an instant that cannot be converted to UTC or to a local time; None is accepted."""
    if instant is not None and not 1 < instant.year < 9999:  # an offset moves an instant by less than a day
        raise BadInputError(f"{what} must be a timestamp of the years 2 to 9998, not {instant.isoformat()}")


def is_model_reference(text: str) -> bool:
    """Return True for `models:…`, which stands for a model of the registry where a path is possible, too."""
    return text.startswith(MODELS_SCHEME)


def parse_reference(text: str) -> PackageReference:
    """Parse `name`, `name:version` or `name@alias`, also after `models:`; raise `BadInputError` for anything else.

    MLflow's form `models:/name/version` is accepted, too.
    """
    if is_model_reference(text):
        rest = text.removeprefix(MODELS_SCHEME)
        text = rest.removeprefix("/").replace("/", ":", 1) if rest.startswith("/") else rest
    name, at, alias = text.partition("@")
    if at:
        return PackageReference(check_name(name, "model"), None, check_name(alias, "alias"))
    name, colon, version = text.partition(":")
    check_name(name, "model")
    if not colon:
        return PackageReference(name, None)
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise BadInputError(f"a version must be a whole number from 1, as in {name}:3, not {version!r}")
    return PackageReference(name, int(version))


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint for an unknown `name`: the most similar of `names`, or those that contain it, or all; empty without names."""
    names = sorted(names)
    containing = [candidate for candidate in names if name and name in candidate]
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hints = similar or containing or names
    more = f" and {len(hints) - 8} more" if len(hints) > 8 else ""
    return f"; known: {', '.join(hints[:8])}{more}" if hints else ""
