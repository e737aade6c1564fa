"""The two sources of deployments: a manifest in a file, and the twin of `$edgeAgent`."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from edgewright.contracts.iothub.connection_strings import DeviceAccess
from edgewright.errors import DeniedError, EdgewrightError, OperationError, UnreachableError
from edgewright.iotedge.hub import without_port
from edgewright.iotedge.runtime.certificates import DeviceAuthority
from edgewright.iotedge.runtime.deployment import ModuleSpec
from edgewright.iotedge.runtime.engine import WORKLOAD_FOLDER, Surroundings
from edgewright.iotedge.runtime.identities import Identities
from edgewright.iotedge.runtime.report import difference
from edgewright.iotedge.runtime.storage import Storage
from edgewright.iotedge.runtime.twin import AgentTwin
from edgewright.iotedge.runtime.workload import API_VERSION, SOCKET, Workloads
from edgewright.iotedge.validation import AGENT

_RETRY_S = (1.0, 60.0)
"""First and longest wait between attempts to connect."""


class FileSource:
    """A manifest in a file; modules get their names, and no identity of a hub."""

    def __init__(self, desired: Mapping[str, Any]) -> None:
        self._desired = desired

    def desired(self) -> Mapping[str, Any]:
        """Return the desired properties of `$edgeAgent` in the manifest."""
        return self._desired

    def accepted(self, desired: Mapping[str, Any]) -> None:
        """Do nothing: the file is there at the next start."""

    def report(self, properties: Mapping[str, Any]) -> None:
        """Do nothing: there is no hub."""

    def surroundings(self, spec: ModuleSpec) -> Surroundings:
        """Return the module's and the device's name."""
        return Surroundings({"IOTEDGE_MODULEID": spec.name, "IOTEDGE_DEVICEID": socket.gethostname()})

    def removed(self, module: str) -> None:
        """Do nothing."""


class TwinSource:
    """The twin of a device's `$edgeAgent`; without a connection, the deployment that was applied last."""

    def __init__(
        self,
        access: DeviceAccess,
        storage: Storage,
        ca_file: Path | None,
        *,
        wake: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._access = access
        self._storage = storage
        self._say = say
        self._identities = Identities(access, storage.path, ca_file)
        authority = DeviceAuthority(storage.path, ca_file)
        self._workloads = Workloads(storage.path / "workload", self._identities.known, authority)
        self._lock = Lock()
        self._is_stale = True
        self._twin = AgentTwin(access, ca_file, self._twin_changed)
        self._wake = wake
        self._desired: Mapping[str, Any] | None = storage.load_deployment()
        self._reported: dict[str, Any] | None = None
        self._failures, self._next_at = 0, 0.0

    def connect(self) -> None:
        """Connect for the first time.

        Raises:
            DeniedError: the hub does not accept the device or its key.
            UnreachableError: the hub does not answer.
            EdgewrightError: the hub refuses.
        """
        self._open()

    def desired(self) -> Mapping[str, Any] | None:
        """Return the desired properties, read again after a change; connect again if the connection is lost."""
        try:
            if not self._twin.is_connected and time.monotonic() >= self._next_at:
                self._open()
            if self._twin.is_connected and self._take_stale():
                self._desired, reported = self._twin.read()
                self._reported = {name: value for name, value in reported.items() if not name.startswith("$")}
        except EdgewrightError as error:
            with self._lock:
                self._is_stale = True
            self._postpone(error)
        return self._desired

    def accepted(self, desired: Mapping[str, Any]) -> None:
        """Store the deployment for a start without the hub."""
        self._storage.save_deployment(desired)

    def report(self, properties: Mapping[str, Any]) -> None:
        """Send what differs from the last report; nothing without a connection."""
        if not self._twin.is_connected or self._reported is None:
            return
        patch = difference(self._reported, properties)
        if patch:
            self._twin.report(patch)
            self._reported = dict(properties)

    def surroundings(self, spec: ModuleSpec) -> Surroundings:
        """Return the variables of an IoT Edge module and the folder with the socket of its workload API."""
        identity = self._identities.identity(spec.name)
        host = without_port(self._access.host)
        variables = {
            "IOTEDGE_DEVICEID": self._access.device,
            "IOTEDGE_MODULEID": spec.name,
            "IOTEDGE_MODULEGENERATIONID": identity.generation,
            "IOTEDGE_IOTHUBHOSTNAME": host,
            "IOTEDGE_GATEWAYHOSTNAME": self._access.gateway or host,
            "IOTEDGE_WORKLOADURI": f"unix://{WORKLOAD_FOLDER}/{SOCKET}",
            "IOTEDGE_APIVERSION": API_VERSION,
            "IOTEDGE_AUTHSCHEME": "sasToken",
            "EdgeDeviceHostName": socket.gethostname(),
        }
        return Surroundings(variables, self._workloads.folder_of(spec.name))

    def adopt(self, modules: list[str]) -> None:
        """Offer the workload API to modules that run already."""
        for module in modules:
            self._workloads.folder_of(module)

    def removed(self, module: str) -> None:
        """Close the socket of a module."""
        self._workloads.remove(module)

    def close(self) -> None:
        """Disconnect, and close the sockets of the workload API."""
        self._twin.close()
        self._workloads.close()

    def _open(self) -> None:
        self._twin.open(self._identities.identity(AGENT))
        with self._lock:
            self._is_stale = True
        if self._failures:
            self._say("connected to the hub")
        self._failures, self._next_at = 0, 0.0

    def _postpone(self, error: EdgewrightError) -> None:
        if self._failures == 0 or isinstance(error, DeniedError | OperationError):
            self._say(f"{error}; the modules run on" if isinstance(error, UnreachableError) else str(error))
        first, longest = _RETRY_S
        self._next_at = time.monotonic() + min(first * 2.0 ** min(self._failures, 10), longest)
        self._failures += 1

    def _twin_changed(self) -> None:
        with self._lock:
            self._is_stale = True
        self._wake()

    def _take_stale(self) -> bool:
        with self._lock:
            was_stale, self._is_stale = self._is_stale, False
        return was_stale
