"""The identities of the device's modules: their keys and generations, which the hub gives the device over HTTPS.

The device's own key allows it to read and create the identities of its modules (as IoT Edge's identity service does). They are
stored, so that modules start and sign without a connection.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

import urllib3

from edgewright.contracts.files import write_atomically
from edgewright.contracts.iothub import sas
from edgewright.contracts.iothub.connection_strings import DeviceAccess
from edgewright.errors import EdgewrightError, OperationError, UnreachableError
from edgewright.iotedge.hub import API_VERSION, TIMEOUT_S, refusal, tls_context, unreachable, without_port

_FILE = "identities.json"
_TOKEN_S = 600


@dataclass(frozen=True, slots=True)
class ModuleIdentity:
    """One module of the device."""

    module: str
    generation: str
    key: str = field(repr=False)


class Identities:
    """The identities of the modules of one device."""

    def __init__(self, access: DeviceAccess, folder: Path, ca_file: Path | None = None) -> None:
        self._access = access
        self._file = folder / _FILE
        self._lock = Lock()
        self._pool = urllib3.PoolManager(ssl_context=tls_context(ca_file), retries=False, timeout=TIMEOUT_S)
        self._known = self._load()

    def known(self, module: str) -> ModuleIdentity | None:
        """Return a stored identity, or None."""
        with self._lock:
            return self._known.get(module)

    def fetch(self, module: str) -> ModuleIdentity:
        """Return an identity as the hub has it now; it is created if the hub has none.

        Raises:
            UnreachableError: the hub does not answer.
            EdgewrightError: the hub refuses.
        """
        path = f"/devices/{quote(self._access.device, safe='')}/modules/{quote(module, safe='')}"
        status, answer = self._call("GET", path)
        if status == 404 and "Module" in json.dumps(answer):
            request = {"deviceId": self._access.device, "moduleId": module, "managedBy": "iotEdge"}
            status, answer = self._call("PUT", path, request)
        if status >= 400:
            raise refusal(status, json.dumps(answer).encode(), self._access.host)
        try:
            key = answer["authentication"]["symmetricKey"]["primaryKey"]
            identity = ModuleIdentity(module, str(answer["generationId"]), str(key))
        except (KeyError, TypeError):
            raise OperationError(f"the hub must answer with the key of module {module}, but it does not") from None
        self._store(identity)
        return identity

    def identity(self, module: str) -> ModuleIdentity:
        """Return an identity from the hub, or the stored one if the hub does not answer.

        Raises:
            UnreachableError: the hub does not answer, and none is stored.
            EdgewrightError: the hub refuses.
        """
        try:
            return self.fetch(module)
        except UnreachableError:
            stored = self.known(module)
            if stored is None:
                raise
            return stored

    def refresh(self, modules: Iterable[str]) -> None:
        """Read the identities of modules again; those that cannot be read stay as they are."""
        for module in modules:
            try:
                self.fetch(module)
            except EdgewrightError:
                continue

    def _call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        access = self._access
        resource = f"{without_port(access.host)}/devices/{access.device}"
        token = sas.create(resource, access.key, int(time.time()) + _TOKEN_S)
        url = f"https://{access.host}{path}?api-version={API_VERSION}"
        raw = None if body is None else json.dumps(body).encode()
        sent = {"Authorization": token, "Content-Type": "application/json"}
        try:
            answer = self._pool.request(method, url, body=raw, headers=sent)
        except (urllib3.exceptions.HTTPError, UnicodeError) as error:
            raise unreachable(access.host, error) from error
        try:
            return answer.status, json.loads(answer.data or b"{}")
        except ValueError as error:
            raise OperationError(f"{access.host} must answer as an IoT Hub does, but its answer is not JSON") from error

    def _load(self) -> dict[str, ModuleIdentity]:
        try:
            return {name: ModuleIdentity(**each) for name, each in json.loads(self._file.read_bytes()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _store(self, identity: ModuleIdentity) -> None:
        with self._lock:
            if self._known.get(identity.module) == identity:
                return
            self._known[identity.module] = identity
            document = {name: asdict(each) for name, each in self._known.items()}
            write_atomically(self._file, json.dumps(document).encode(), mode=0o600)
