"""Keys of a scoring service: a primary and a secondary one in a file, either of which a client sends as a bearer token.

With two keys, one can be replaced while clients use the other. The file is read again when it changes, so a rotation needs no
restart: write a new file and rename it over the old one.

    {"primary": "...", "secondary": "..."}
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from pathlib import Path
from typing import Any

from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError
from edgewright.serving.http import tokens
from edgewright.serving.http.messages import HttpError

NAMES = ("primary", "secondary")
_SHORTEST = 16
_RELOAD_S = 1.0
_USUAL_SCHEME = b"Bearer "
_SCHEME = "bearer "
"""The authentication scheme of RFC 6750, section 2.1; schemes are compared without case (RFC 9110, section 11.1)."""


class KeyFile:
    """The keys in a file, kept up to date."""

    def __init__(self, path: Path) -> None:
        """Read the keys.

        Raises:
            BadInputError: the file does not hold two keys of at least 16 characters.
        """
        self._path = path
        self._stamp = _stamp_of(path)
        self._keys = _read(path)
        self._checked_s = time.monotonic()

    def check(self, authorization: str) -> None:
        """Accept the header `Authorization: Bearer KEY`, or with a token that was signed with a key (tokens.py).

        Raises:
            HttpError: the header is missing, or has another key or an invalid token (401).
        """
        self._reload(after_s=_RELOAD_S)
        if self._is_usual(authorization):
            return
        given = authorization[len(_SCHEME) :].strip() if authorization[: len(_SCHEME)].lower() == _SCHEME else ""
        found = self._refusal(given)
        if found is not None and given and self._reload():
            found = self._refusal(given)
        if found is not None:
            text = f"the header Authorization must be 'Bearer' and a key or token of this service, but {found}"
            raise HttpError(401, text, (("www-authenticate", "Bearer"),))

    def _is_usual(self, authorization: str) -> bool:
        """Return True for a key of this service in the usual spelling; both are compared, so that the time depends on neither."""
        raw = authorization.encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(raw, _USUAL_SCHEME + key) for key in self._keys]
        return any(matches)

    def _refusal(self, given: str) -> str | None:
        """Return the reason for which a credential is refused, or None."""
        raw = given.encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(raw, key) for key in self._keys]  # both, so that the time does not depend on the key
        if any(matches):
            return None
        if tokens.is_token(given):
            return tokens.check(given, self._keys, now_s=time.time())
        return "another key was sent" if given else "no key was sent"

    def _reload(self, *, after_s: float = 0.0) -> bool:
        """Read the file again if it changed, and if the last look at it was `after_s` ago; return True if it was read.

        An unknown key causes a look at once: it may be a new key that its client uses immediately. A file that cannot be read
        keeps the present keys until it is complete.
        """
        now_s = time.monotonic()
        if now_s - self._checked_s < after_s:
            return False
        self._checked_s = now_s
        stamp = _stamp_of(self._path)
        if stamp == self._stamp:
            return False
        try:
            self._keys = _read(self._path)
        except BadInputError:
            return False
        self._stamp = stamp
        return True


def write_new_keys(path: Path) -> None:
    """Create a key file with two random keys that only its owner may read."""
    keys = {name: secrets.token_urlsafe(32) for name in NAMES}
    write_atomically(path, (json.dumps(keys, indent=1) + "\n").encode(), mode=0o600)


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        document: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} must be a JSON object with the keys of the service: {error}") from error
    found = [document.get(name) for name in NAMES] if isinstance(document, dict) else []
    keys = [key.encode() for key in found if isinstance(key, str) and len(key) >= _SHORTEST and key.isascii()]
    if len(keys) != len(NAMES):
        raise BadInputError(
            f'{path} must hold {{"primary": "...", "secondary": "..."}} with at least {_SHORTEST} ASCII characters each'
        )
    return tuple(keys)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
