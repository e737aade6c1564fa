"""Identity of an enrolled device: its credentials, its cloud and the keys that it trusts.

    identity/enrolment.json ca.pem     result of the enrolment
    identity/current -> a              the credential set in use, switched by one rename
    identity/a identity/b              credential sets: device.key device.crt validity.json

A renewal writes the set that is not in use (`certificate.py`), so a crash leaves the old set or the new one, never a mixture.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.connection.enrolment import EnrolResponse
from edgewright.errors import MessageError, NotFoundError, OperationError

RECORD = "enrolment.json"
CURRENT = "current"
CREDENTIAL_SETS = ("a", "b")
KEY_FILE = "device.key"
CERTIFICATE_FILE = "device.crt"
VALIDITY_FILE = "validity.json"
CREDENTIAL_FILES = (KEY_FILE, CERTIFICATE_FILE, VALIDITY_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """Result of the enrolment; its file is written last, so its presence proves that the device is enrolled."""

    url: str
    profile: str
    response: EnrolResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Validity of a certificate, for the resident process, which does not load the cryptography to read certificates.

    The first two times are from the cloud's clock, the last from the device's. Compare only times of the same clock.
    """

    not_before: datetime
    not_after: datetime
    obtained_at: datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of an enrolled device."""

    folder: Path
    enrolment: Enrolment

    @classmethod
    def load(cls, state_directory: Path) -> Identity:
        """Read the identity.

        Raises:
            NotFoundError: the device is not enrolled.
        """
        folder = state_directory / "identity"
        try:
            raw = (folder / RECORD).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"{state_directory} must belong to an enrolled device, but it does not: run 'edgewright agent enrol' first"
            ) from None
        return cls(folder, wire.decode(raw, Enrolment, what=str(folder / RECORD)))

    @property
    def device(self) -> str:
        """The device's name."""
        return self.enrolment.response.device

    @property
    def url(self) -> str:
        """The cloud's address."""
        return self.enrolment.url

    @property
    def authority(self) -> Path:
        """The certificate of the cloud's certificate authority."""
        return self.folder / "ca.pem"

    @property
    def credentials(self) -> Path:
        """The credential set in use; read it once to get a key and a certificate that match."""
        try:
            return self.folder / (self.folder / CURRENT).readlink()
        except OSError:  # the link is lost; a set is complete once its last file is written
            candidates = [self.folder / name for name in CREDENTIAL_SETS]
            complete = [path for path in candidates if all((path / file).is_file() for file in CREDENTIAL_FILES)]
            return max(complete, key=lambda path: (path / VALIDITY_FILE).stat().st_mtime, default=candidates[0])

    @property
    def spare_credentials(self) -> Path:
        """The credential set that a renewal may overwrite."""
        return self.folder / next(name for name in CREDENTIAL_SETS if name != self.credentials.name)

    @property
    def certificate(self) -> Path:
        """The device's certificate."""
        return self.credentials / CERTIFICATE_FILE

    @property
    def key(self) -> Path:
        """The device's private key."""
        return self.credentials / KEY_FILE

    def validity(self) -> Validity | None:
        """Return the validity of the certificate in use; None if it cannot be read."""
        path = self.credentials / VALIDITY_FILE
        try:
            return wire.decode(path.read_bytes(), Validity, what=str(path))
        except (OSError, MessageError):
            return None

    def tls_context(self) -> ssl.SSLContext:
        """Return a TLS context that trusts only the cloud's authority and presents the device's current certificate.

        Raises:
            OperationError: the certificate or the key is missing or damaged.
        """
        credentials = self.credentials
        try:
            context = ssl.create_default_context(cafile=str(self.authority))
            context.load_cert_chain(str(credentials / CERTIFICATE_FILE), str(credentials / KEY_FILE))
        except OSError as error:
            raise OperationError(
                f"{credentials} must hold the device's certificate and key, but {error}: restore it, or enrol the device again"
            ) from error
        return context
