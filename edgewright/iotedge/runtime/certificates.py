"""The authority of the device, which issues certificates to its modules, and the trust bundle that modules verify with."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cloud.state.certificates import Authority, certificate_pem, key_pem, new_key
from edgewright.contracts.files import write_atomically

_CERTIFICATE, _KEY = "device-ca.pem", "device-ca.key"


class DeviceAuthority:
    """The authority of one device; it is created at the first use."""

    def __init__(self, folder: Path, hub_authorities: Path | None) -> None:
        certificate_file, key_file = folder / _CERTIFICATE, folder / _KEY
        if not (certificate_file.exists() and key_file.exists()):
            created = Authority.create(datetime.now(UTC))
            write_atomically(key_file, key_pem(created.key), mode=0o600)
            write_atomically(certificate_file, certificate_pem(created.certificate))
        self._authority = Authority.from_pem(certificate_file.read_bytes(), key_file.read_bytes())
        self._hub_authorities = hub_authorities

    def trust_bundle(self) -> str:
        """Return PEM: the authorities of the hub, else those of the system, and the device's own."""
        hub = self._hub_authorities or Path(ssl.get_default_verify_paths().cafile or "/dev/null")
        return f"{hub.read_text('utf-8', 'replace').rstrip()}\n{self._authority.pem}"

    def issue(self, name: str, *, is_server: bool) -> tuple[str, str, datetime]:
        """Return the key and the certificate of a module as PEM, and its end."""
        key, now = new_key(), datetime.now(UTC)
        if is_server:
            certificate = self._authority.issue_server([name], key, now)
        else:
            certificate = self._authority.issue_client(name, key.public_key(), now)
        chain = certificate_pem(certificate).decode("ascii") + self._authority.pem
        return key_pem(key).decode("ascii"), chain, certificate.not_valid_after_utc
