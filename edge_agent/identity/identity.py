"""Who this device is, as `enrolment.py` wrote it down: its certificate, its key, its cloud, and the keys that it believes.

    identity/enrolment.json ca.pem     what was agreed at enrolment
    identity/current -> a              the slot in use, switched by one rename
    identity/a identity/b              device.key device.crt validity.json

A renewal fills the slot that is not in use (`certificate.py`), so a crash leaves the old pair or the new one, never a mixture.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.messages import EnrolResponse
from edgewright.errors import MessageError, NotFoundError, OperationError

RECORD = "enrolment.json"
CURRENT = "current"
SLOTS = ("a", "b")
KEY_FILE = "device.key"
CERTIFICATE_FILE = "device.crt"
VALIDITY_FILE = "validity.json"
SLOT_FILES = (KEY_FILE, CERTIFICATE_FILE, VALIDITY_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What was agreed at enrolment; written last, so its file says that the device is enrolled."""

    url: str
    profile: str
    response: EnrolResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """How long a certificate is good, for a process that cannot read certificates.

    Two clocks: the cloud's wrote the first two, the device's own the last. Only differences within one clock can be trusted.
    """

    not_before: datetime
    not_after: datetime
    obtained_at: datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled device."""

    folder: Path
    membership: Membership

    @classmethod
    def load(cls, state_directory: Path) -> Identity:
        """Read the identity; raise `NotFoundError` when the device is not enrolled."""
        folder = state_directory / "identity"
        try:
            raw = (folder / RECORD).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"{state_directory} must belong to an enrolled device, but it does not: run 'edgewright agent enrol' first"
            ) from None
        return cls(folder, wire.decode(raw, Membership, what=str(folder / RECORD)))

    @property
    def device(self) -> str:
        """The device's name."""
        return self.membership.response.device

    @property
    def url(self) -> str:
        """The cloud's address."""
        return self.membership.url

    @property
    def authority(self) -> Path:
        """The certificate of the cloud's authority."""
        return self.folder / "ca.pem"

    @property
    def slot(self) -> Path:
        """The slot in use now; read once where key and certificate must fit each other."""
        try:
            return self.folder / (self.folder / CURRENT).readlink()
        except OSError:  # the link was lost; a slot is written in an order in which the last file makes it whole
            whole = [self.folder / name for name in SLOTS if all((self.folder / name / file).is_file() for file in SLOT_FILES)]
            return max(whole, key=lambda slot: (slot / VALIDITY_FILE).stat().st_mtime, default=self.folder / SLOTS[0])

    @property
    def spare_slot(self) -> Path:
        """The slot that a renewal may fill."""
        return self.folder / next(name for name in SLOTS if name != self.slot.name)

    @property
    def certificate(self) -> Path:
        """The device's certificate."""
        return self.slot / CERTIFICATE_FILE

    @property
    def key(self) -> Path:
        """The device's private key."""
        return self.slot / KEY_FILE

    def validity(self) -> Validity | None:
        """Return how long the certificate in use is good; None when that cannot be read."""
        path = self.slot / VALIDITY_FILE
        try:
            return wire.decode(path.read_bytes(), Validity, what=str(path))
        except (OSError, MessageError):
            return None

    def tls_context(self) -> ssl.SSLContext:
        """Return a context that believes the cloud's authority alone and shows the device's certificate of now.

        Raises:
            OperationError: the files are not what they were when they were written.
        """
        slot = self.slot
        try:
            context = ssl.create_default_context(cafile=str(self.authority))
            context.load_cert_chain(str(slot / CERTIFICATE_FILE), str(slot / KEY_FILE))
        except OSError as wrong:
            raise OperationError(
                f"{slot} must hold the device's certificate and its key, but {wrong}: restore it, or enrol the device again"
            ) from wrong
        return context
